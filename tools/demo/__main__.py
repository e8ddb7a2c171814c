"""`make demo`: the product does its main job on real parts, each step with its command and its real output.

Without arguments it makes a local cluster of its own (control plane, a node that runs pods, Dolt) and removes it at the
end. With `--context NAME` it uses that context of the kubeconfig instead; then the image and the database are the
user's: PRESENCE_IMAGE, PRESENCE_DSN (as seen from here) and, where it differs, PRESENCE_POD_DSN (as seen from pods).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(Path(__file__).resolve().parent)]

from script import Script, StepError  # noqa: E402
from stage import ForeignStage, LocalStage, Stage  # noqa: E402


def main() -> int:
    """Play the demo; 0 when every step did what it is there to show."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--context", help="use this context of the kubeconfig instead of a local cluster")
    options = parser.parse_args()
    started = time.monotonic()
    script = Script()
    stage: Stage = ForeignStage(options.context, os.environ) if options.context else LocalStage(ROOT)
    try:
        with stage:
            play(script, stage)
    except StepError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    script.say(f"Done in {time.monotonic() - started:.0f} s. `make up` leaves such a cluster running for you to use.")
    return 0


def play(script: Script, stage: Stage) -> None:
    """The story: install, claim, see each other, die, expire, look at the history."""
    script.title("Terraform installs the custom resources and migrates the database in a pod")
    module = ROOT / "terraform"
    script.use(stage.environment())
    terraform = stage.terraform
    state = stage.directory / "terraform"
    stage.write_terraform_root(state, module)
    script.run(f"{terraform} -chdir={state} init -no-color", show="terraform init", keep=4)
    script.run(f"{terraform} -chdir={state} apply -no-color -auto-approve", show="terraform apply", keep=14)
    script.run("kubectl -n presence get jobs,configmaps -l app.kubernetes.io/name=presence")
    script.run(f"{terraform} -chdir={state} plan -no-color -detailed-exitcode", show="terraform plan", keep=4)

    script.title("The operator starts")
    stage.start_operator()
    script.run("curl -s ${PRESENCE_METRICS_URL%/metrics}/readyz")

    script.title("Two sessions, one stack: each sees the other")
    alice, bob = {"PRESENCE_SESSION": "alice@laptop@a1b2c3d4"}, {"PRESENCE_SESSION": "ci@runner@00000812"}
    script.run('presence claim stack:vault --purpose "apply #812: rotate unseal keys" --ttl 12s', env=alice)
    script.run('presence claim stack:vault --purpose "drift fix" --ttl 10m', env=bob, expect="ALSO CLAIMED BY")
    script.run("kubectl -n presence wait --for=condition=Granted pclaim --all --timeout=10s")
    script.run("kubectl -n presence get presenceclaims")
    script.until(
        "kubectl -n presence get pclaim -o jsonpath='{range .items[*]}{.spec.session}: "
        '{.status.conflictsWith[*].session}{"\\n"}{end}\'',
        lambda text: text.count("ci@runner@00000812") == 2,
        "both sides see the conflict",
    )
    script.run("presence list", env=bob)

    script.title("Alice's session dies: nothing renews her claim, and it expires by itself")
    script.until(
        "kubectl -n presence get presenceclaims", lambda text: "Expired" in text, "her claim is Expired", timeout=40
    )
    script.run("presence peek stack:vault", env=bob)
    script.run("kubectl -n presence get events --field-selector reason=Expired")
    script.run("presence release stack:vault", env=bob)
    script.until("presence list", lambda text: "no active claims" in text, "the board is empty", env=bob)

    script.title("Two pipelines, one stack: the second waits its turn, and goes when the first is done")
    run = "presence run stack:vault --purpose \"apply #{0}\" --session ci-{0} -- sh -c '{1}'"
    first = run.format(812, "echo pipeline 812 applies with token $PRESENCE_FENCING_TOKEN; sleep 4")
    second = run.format(813, "echo pipeline 813 applies with token $PRESENCE_FENCING_TOKEN")
    script.run(f"{first} & sleep 1; {second}; wait", show=f"{first} &\n  {second}", expect="pipeline 813 applies")
    script.run("kubectl -n presence get presenceclaims")

    script.title("The history is in Dolt")
    stage.show_sql(
        script,
        "select at, kind, session_id, resource_label, reason from presence_events order by at",
        lambda rows: {"claimed", "expired", "released"} <= {row[1] for row in rows},
    )
    stage.show_sql(script, "select session_id, resource_label, expires_at from presence_claims", lambda rows: not rows)
    stage.show_sql(script, "select date, message from dolt_log order by date desc limit 5", bool, only_dolt=True)

    script.title("The figures are in Prometheus")
    script.run(
        "curl -s $PRESENCE_METRICS_URL | grep -E '^presence_claims_(granted|expired|released)_total.*stack|"
        "^presence_mirror_(lag|pending)'",
        expect='presence_claims_expired_total{type="stack"} 1.0',
    )


if __name__ == "__main__":
    sys.exit(main())
