"""A name that a dying actor still holds is waited for; options that Ray refuses are not."""

import pytest

from couplet.actors import remote


class Kind:
    """An actor whose creation fails as the script says."""


@pytest.fixture
def scripted(monkeypatch):
    """`scripted(failures, taken)`: creation fails that often; `taken` says whether the name is listed, each time."""

    def prepare(failures, taken):
        calls, listed = iter(range(failures)), iter(taken)

        class Actor:
            def options(self, **options):
                return self

            def remote(self, *arguments):
                if next(calls, None) is not None:
                    raise ValueError("refused")
                return "handle"

        monkeypatch.setattr(remote.ray, "remote", lambda kind: Actor())
        monkeypatch.setattr(remote, "_is_taken", lambda options: next(listed))
        monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
        return lambda: remote.start_actor(Kind, {"name": "learner-0", "namespace": "couplet:run"})

    return prepare


@pytest.mark.parametrize("taken", [[True, True], [True, False], [False]])
def test_a_name_is_waited_for_also_if_it_becomes_free_while_ray_is_asked(scripted, taken):
    assert scripted(len(taken), taken)() == "handle"


def test_another_refusal_is_raised(scripted):
    with pytest.raises(ValueError, match="refused"):
        scripted(2, [False, False])()
