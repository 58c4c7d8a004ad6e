"""Laws of the tokenizers: ours, and Hugging Face folders in Qwen2's and Dream's layout."""

import json

import pytest

from couplet.data.tokenizer import (
    BEGIN,
    CHAT_END,
    FILLER,
    MASK,
    PAD,
    UNKNOWN,
    Tokenizer,
    add_diffusion_tokens,
    completion_text,
    load_tokenizer,
    tiny_tokenizer,
    train_tokenizer,
)

ANSWER = "```python\ndef f(xs):\n    return sum(x * 2 for x in xs if x > 3)\n```"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def test_fences_and_words_are_one_token_and_digits_stay_single(tokenizer):
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode(ANSWER)]
    assert pieces[:2] == ["```python\n", "def"] and pieces[-1] == "```"
    assert len(pieces) == 24
    assert [tokenizer.decode([i]) for i in tokenizer.encode(" 12")] == [" 1", "2"]
    assert 480 <= len(tokenizer) <= 560


def test_text_survives_the_round_trip(tokenizer):
    text = "print('x')  # spaces   stay, [1, 22]\n\n    a_b = {}\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("é") == [tokenizer.id(UNKNOWN)]


def test_chat_prompt_is_short_and_qwen_shaped(tokenizer):
    prompt = tokenizer.chat_prompt("Define f.")
    assert tokenizer.decode(prompt, skip_special=False) == (
        "<|im_start|>user\nDefine f.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(prompt) == 3 + 3 + 2 + 3
    assert tokenizer.chat_text("q", "s").startswith("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq")


def test_completion_text_ends_before_the_first_end_token(tokenizer):
    end, filler = tokenizer.id(CHAT_END), tokenizer.id(FILLER)
    canvas = [*tokenizer.encode(ANSWER), end, filler, *tokenizer.encode("x"), filler]
    assert completion_text(tokenizer, canvas, [end]) == ANSWER
    assert completion_text(tokenizer, [filler, *tokenizer.encode("x")], [end]) == "x"
    assert completion_text(tokenizer, [end], [end]) == ""


def test_training_twice_gives_the_same_tokenizer_and_saving_keeps_it(tokenizer, tmp_path):
    texts = [ANSWER, "Define f so that it gives zero."]
    first, second = train_tokenizer(texts, 150), train_tokenizer(texts, 150)
    assert first.backend.get_vocab() == second.backend.get_vocab()
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.chat_prompt("Define f.", "s") == tokenizer.chat_prompt("Define f.", "s")
    assert loaded.special == tokenizer.special and loaded.encode(ANSWER) == tokenizer.encode(ANSWER)


def write_qwen2_files(folder, tokenizer_class, diffusion=True):
    """A miniature byte-level vocabulary in Qwen2's files, with Dream's added tokens (`diffusion`) and custom class."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)} | {"de": 256, "def": 257}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nd e\nde f\n", encoding="utf-8")
    names = [PAD, "<|im_start|>", CHAT_END, *([BEGIN, MASK] if diffusion else [])]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "added_tokens_decoder": {str(258 + i): {"content": name, **flags} for i, name in enumerate(names)},
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "eos_token": PAD,
        "pad_token": PAD,
        **({"mask_token": MASK} if diffusion else {}),
        "chat_template": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "tokenizer_class": tokenizer_class,
    }
    if tokenizer_class != "DreamTokenizer":
        del settings["auto_map"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize("tokenizer_class", ["DreamTokenizer", "Qwen2Tokenizer"])
def test_published_layouts_load_without_remote_code(tmp_path, tokenizer_class):
    write_qwen2_files(tmp_path, tokenizer_class)
    loaded = load_tokenizer(tmp_path)
    assert loaded.id(MASK) == 262 and loaded.id(PAD) == 258
    assert loaded.encode("def def<|im_end|>", special=True) == [257, loaded.id("Ġ"), 257, 260]
    assert loaded.decode(loaded.chat_prompt("é x"), skip_special=False).startswith("<|im_start|>user\né x<|im_end|>")
    assert loaded.decode(loaded.encode("é  def<|mask|>", special=True)) == "é  def"
    loaded.save(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").encode("é def<|mask|>", special=True) == loaded.encode(
        "é def<|mask|>", special=True
    )


def test_a_foreign_class_with_a_tokenizer_file_loads_from_that_file(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = load_tokenizer(tmp_path)
    assert loaded.chat_prompt("Define f.") == tokenizer.chat_prompt("Define f.")
    assert loaded.special == tokenizer.special
    assert loaded.decode(loaded.encode(ANSWER + "<|mask|>", special=True)) == ANSWER


SPELLED = f"Why {MASK}, x{CHAT_END}\n{PAD}"


@pytest.mark.parametrize("published", [False, True])
def test_special_tokens_written_in_a_text_are_words_and_only_the_template_has_real_ones(tokenizer, tmp_path, published):
    if published:
        write_qwen2_files(tmp_path, "DreamTokenizer")
        tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode(SPELLED)
    assert not set(ids) & set(tokenizer.special.values()) and tokenizer.decode(ids) == SPELLED
    assert tokenizer.id(MASK) in tokenizer.encode(SPELLED, special=True)
    asked, plain = tokenizer.chat_prompt(SPELLED, MASK), tokenizer.chat_prompt("q", "s")
    special = set(tokenizer.special.values())
    assert [i for i in asked if i in special] == [i for i in plain if i in special]
    assert tokenizer.decode(asked, skip_special=False) == tokenizer.chat_text(SPELLED, MASK)
    ordinary = tokenizer.chat_prompt("\n  def f")
    assert ordinary == tokenizer.encode(tokenizer.chat_text("\n  def f"), special=True)
    shared = ordinary.index(tokenizer.id(CHAT_END))
    assert tokenizer.chat_prompt(f"\n  def f{MASK}")[:shared] == ordinary[:shared]


def test_a_tokenizer_without_special_tokens_has_a_chat_prompt_too():
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Backend(models.WordLevel({"ask": 0, "q": 1}, unk_token="ask"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "{% for m in messages %}ask {{ m['content'] }}{% endfor %}"
    plain = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template))
    assert not plain.special and plain.chat_prompt("q q") == [0, 1, 1]


def test_diffusion_tokens_are_appended_once(tmp_path):
    write_qwen2_files(tmp_path, "Qwen2Tokenizer")
    loaded = load_tokenizer(tmp_path)
    assert add_diffusion_tokens(loaded) == 1 and loaded.id(FILLER) == 263
    assert add_diffusion_tokens(loaded) == 0
    assert loaded.decode(loaded.encode("a<|dlm_pad|>", special=True)) == "a"


def test_an_autoregressive_tokenizer_gets_the_ids_of_dream(tmp_path):
    write_qwen2_files(tmp_path, "Qwen2Tokenizer", diffusion=False)
    loaded = load_tokenizer(tmp_path)
    first = len(loaded)
    assert add_diffusion_tokens(loaded) == 3
    loaded.save(tmp_path / "copy")
    again = load_tokenizer(tmp_path / "copy")
    assert [again.id(token) for token in (BEGIN, MASK, FILLER)] == [first, first + 1, first + 2]
    assert again.decode(again.encode("a<|mask|><|dlm_pad|>", special=True)) == "a"


def test_missing_tokenizer_token_and_template_are_named(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="no tokenizer here"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"no token '<.nope.>'"):
        tokenizer.id("<|nope|>")
    write_qwen2_files(tmp_path, "Qwen2Tokenizer")
    plain = load_tokenizer(tmp_path)
    plain.backend.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        Tokenizer(plain.backend).chat_prompt("q")


def llama3_like(folder):
    """A byte-level tokenizer.json with Llama 3's names, one token for a line break with indentation, no other files."""
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, "Ġ" * 2, "Ġ" * 3, "Ċ" + "Ġ" * 3])}
    merges = [("Ġ", "Ġ"), ("Ġ" * 2, "Ġ"), ("Ċ", "Ġ" * 3)]
    core = Backend(models.BPE(vocab=vocabulary, merges=merges))
    split = pre_tokenizers.Split(Regex(r"\n *|\w+|[^\w\n]+"), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    core.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    core.save(str(folder / "tokenizer.json"))
    return core


def test_a_tokenizer_file_is_read_as_it_is_whatever_the_model_type(tmp_path):
    """transformers' automatic class gives a folder of model type qwen2 Qwen2's pre-tokenizer, and two tokens here."""
    core = llama3_like(tmp_path)
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|end_of_text|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    loaded = load_tokenizer(tmp_path)
    text = "def f(x):\n   return x\n"
    assert loaded.encode(text) == core.encode(text).ids and loaded.id("ĊĠĠĠ") in loaded.encode(text)
    add_diffusion_tokens(loaded)
    loaded.save(tmp_path / "copy")
    again = load_tokenizer(tmp_path / "copy")
    assert again.encode(text) == core.encode(text).ids and again.decode(again.encode(text)) == text
    assert again.id(MASK) == loaded.id(MASK) == len(core.get_vocab()) + 1


def test_a_mask_token_of_its_own_is_kept(tmp_path):
    llama3_like(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<|end_header_id|>"}))
    loaded = load_tokenizer(tmp_path)
    assert add_diffusion_tokens(loaded) == 2 and MASK not in loaded.special
    assert loaded.backend.mask_token == "<|end_header_id|>"


def test_a_tokenizer_that_loses_text_is_a_warning(tmp_path, caplog):
    from tokenizers import Tokenizer as Backend
    from tokenizers import normalizers

    llama3_like(tmp_path)
    core = Backend.from_file(str(tmp_path / "tokenizer.json"))
    core.normalizer = normalizers.Replace("12", "13")
    core.save(str(tmp_path / "tokenizer.json"))
    load_tokenizer(tmp_path)
    assert "text does not survive" in caplog.text
