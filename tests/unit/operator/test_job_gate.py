"""What the gate tells of a Job, from the bodies that the API server shows of it and its pods."""

from __future__ import annotations

from typing import Any

import pytest

from presence_operator.job_gate import Complete, Failed, Running, judge, watch

Body = dict[str, Any]


def job(**conditions: str) -> Body:
    """A Job with the given conditions set, each with its message."""
    listed = [{"type": kind, "status": "True", "message": text} for kind, text in conditions.items()]
    return {"metadata": {"name": "presence-schema-12345678"}, "status": {"conditions": listed}}


def ended(message: str, exit_code: int = 1, at: str = "2026-01-01T10:00:00Z", reason: str = "Error") -> Body:
    terminated = {"exitCode": exit_code, "message": message, "finishedAt": at, "reason": reason}
    return {"status": {"containerStatuses": [{"state": {"terminated": terminated}}]}}


def waiting(reason: str, message: str = "") -> Body:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"status": {"containerStatuses": [{"state": state}]}}


@pytest.mark.parametrize("body", [{"metadata": {"name": "j"}}, job(), job(SuccessCriteriaMet="", Suspended="")])
def test_a_job_without_an_end_is_running(body: Body) -> None:
    assert judge(body, []) == Running()


def test_a_condition_that_is_false_is_no_end() -> None:
    body = job(Failed="no")
    body["status"]["conditions"][0]["status"] = "False"

    assert judge(body, []) == Running()


def test_a_complete_job_is_complete_whatever_its_first_pods_said() -> None:
    assert judge(job(Complete=""), [ended("no answer", 69)]) == Complete()


def test_a_failed_job_is_told_with_the_last_words_of_its_last_pod() -> None:
    pods = [ended("second", at="2026-01-01T10:00:09Z"), ended("first", at="2026-01-01T10:00:01Z"), ended("", 0)]

    verdict = judge(job(Failed="Job has reached the specified backoff limit"), pods)

    assert isinstance(verdict, Failed)
    assert "Job presence-schema-12345678 failed: Job has reached the specified backoff limit" in verdict.reason
    assert "Its pod said: second" in verdict.reason
    assert "terraform apply -replace=<module>.kubectl_manifest.job" in verdict.reason


def test_long_last_words_are_cut_at_their_beginning() -> None:
    verdict = judge(job(Failed=""), [ended("x" * 5000 + "the point")])

    assert isinstance(verdict, Failed)
    assert "the point" in verdict.reason
    assert len(verdict.reason) < 2000


def test_a_pod_without_words_is_told_by_its_exit_code() -> None:
    verdict = judge(job(Failed=""), [ended("", 137, reason="OOMKilled")])

    assert isinstance(verdict, Failed)
    assert "exit code 137 (OOMKilled)" in verdict.reason


@pytest.mark.parametrize(
    ("pod", "trouble"),
    [
        (waiting("ContainerCreating"), ""),
        (
            waiting("CreateContainerConfigError", 'secret "x" not found'),
            'CreateContainerConfigError: secret "x" not found',
        ),
        (waiting("ImagePullBackOff"), "ImagePullBackOff"),
        (
            {
                "status": {
                    "conditions": [
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m"}
                    ]
                }
            },
            "Unschedulable: m",
        ),
        ({"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}, ""),
    ],
)
def test_what_keeps_a_pod_from_running_is_told(pod: Body, trouble: str) -> None:
    assert judge(job(), [pod]) == Running(trouble)


def test_the_trouble_outlives_the_pod_that_had_it() -> None:
    verdict = judge(job(Failed="Job was active longer than specified deadline"), [], 'secret "x" not found')

    assert isinstance(verdict, Failed)
    assert 'Its pod did not start: secret "x" not found' in verdict.reason


class Told:
    """A failed Job, and the pauses between looks at it."""

    def __init__(self, looks: int) -> None:
        self.messages: list[str] = []
        self.pauses: list[float] = []
        self._looks = looks

    def job(self, _: str) -> Body:
        return job(Failed="Job has reached the specified backoff limit")

    def pods(self, _: str) -> list[Body]:
        return []

    def fail_rollout(self, _: str, message: str) -> None:
        self.messages.append(message)

    def is_set(self) -> bool:
        return len(self.pauses) == self._looks

    def wait(self, pause: float) -> None:
        self.pauses.append(pause)


def test_a_failed_job_is_looked_at_ever_more_seldom() -> None:
    told = Told(looks=5)

    watch(told, "presence-schema-12345678", "gate", told)  # type: ignore[arg-type]

    assert told.pauses == [15, 30, 60, 60, 60]
    assert len(set(told.messages)) == 1
