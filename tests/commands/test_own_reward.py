"""A reward function of the user's own, added as docs/architecture.md says."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml

from couplet.actors import ray_init as connect
from couplet.configs.errors import UserError
from couplet.configs.load import from_dict
from couplet.configs.schema import ConfigError, RewardConfig
from couplet.data.problem import Problem
from couplet.reward.functions import MOST_WITHOUT_OPINION, Chosen, Judged, Opinions, chosen, pay

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.fixture
def documented(tmp_path, monkeypatch):
    """(folder with the module, reward section of the recipe), both as the page has them."""
    text = PAGE.read_text().split("**A reward function**", 1)[1].split("**An estimator.**", 1)[0]
    (module,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (tmp_path / "my_rewards.py").write_text(module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path, from_dict(RewardConfig, yaml.safe_load(recipe)["reward"])
    sys.modules.pop("my_rewards", None)


def test_the_documented_steps_pay(documented):
    functions = chosen(documented[1].functions)
    judged = Judged(Problem("p", "q", ("assert f(1) == 1",)), "", "def f(x): return x", 1.0, (), 1.0)
    assert pay(functions, judged) == (
        pytest.approx(2.0 + 0.5 + 0.1),
        {"code": 1.0, "code_format": 1.0, "my_rewards_short": 1.0},
    )
    assert "`reward_my_rewards_short`" in PAGE.read_text()


def test_its_module_travels_to_a_cluster(documented, monkeypatch):
    folder, config = documented
    (folder / "mine").mkdir()
    (folder / "mine" / "inner.py").write_text("")
    (folder / "elsewhere.py").write_text("")
    modules = connect._own_modules([*config.functions, "mine.inner:f", "absent:f", "couplet.reward.functions:code"])
    with connect._code_alone((), modules) as code:
        found = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    assert found == {"my_rewards.py", "mine/inner.py"}


@pytest.mark.parametrize("name", ["nowhere_at_all:short", ":short", "json:no_such"])
def test_one_that_cannot_be_imported_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"reward.functions.{name} = 0.1: cannot be imported: .*PYTHONPATH"):
        chosen({name: 0.1})


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda judged: 1 / 0, "reward function m:mine: problem p: raised ZeroDivisionError: division by zero"),
        (lambda judged: "1", "reward function m:mine: problem p: returned '1'; return a finite number"),
        (lambda judged: float("nan"), "reward function m:mine: problem p: returned nan"),
        (lambda judged: float("-inf"), "reward function m:mine: problem p: returned -inf"),
    ],
)
def test_a_reward_function_that_fails_is_named(function, message):
    judged = Judged(Problem("p", "q", ("assert f(1) == 1",)), "", "def f(x): return x", 1.0, (), 1.0)
    with pytest.raises(UserError, match=message):
        pay({"m_mine": Chosen(function, 1.0, "m:mine")}, judged)


def test_none_means_no_opinion_and_nothing_but_none_is_an_error():
    judged = Judged(Problem("p", "q", ("assert f(1) == 1",)), "", "def f(x): return x", 1.0, (), 1.0)
    functions = {"some": Chosen(lambda judged: 0.5, 2.0, "some"), "none": Chosen(lambda judged: None, 1.0, "m:none")}
    total, parts = pay(functions, judged)
    assert (total, parts) == (1.0, {"some": 0.5})
    opinions = Opinions(functions)
    for _ in range(MOST_WITHOUT_OPINION - 1):
        opinions.count(functions, judged, parts)
    with pytest.raises(UserError, match="reward function m:none: problem p: returned None"):
        opinions.count(functions, judged, parts)
