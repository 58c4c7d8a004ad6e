"""A server's node has another working directory than the driver: what the driver names by a relative path still holds."""

import os

import pytest

pytestmark = pytest.mark.ray


def test_a_relative_interpreter_and_model_are_found_from_another_folder(
    ray_cluster, vllm_python, tmp_path, monkeypatch
):
    from couplet.actors.vllm_actor import VllmActor, serving_on_ray

    asked = []
    start = VllmActor.start

    def noted(self, model, python, options, timeout):
        url, _ = start(self, model, python, options, timeout)
        return url, f"{model} {python} {os.getcwd()}"

    monkeypatch.setattr(VllmActor, "start", noted)
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    for model in ("model", "owner/model"):
        with serving_on_ray(model, python=f"./{vllm_python.name}", gpus=0, options=[], timeout=200) as (_, key):
            asked.append(key.split())
    for (model, python, there), expected in zip(asked, (str(tmp_path / "model"), "owner/model"), strict=True):
        assert model == expected and python == str(vllm_python) and there != str(tmp_path)
