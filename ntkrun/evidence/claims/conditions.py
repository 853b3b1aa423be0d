"""The conditions under which a claim can be judged. A report prints their docstrings."""

from ntkrun.evidence.estimates.cases import AT, Case
from ntkrun.evidence.estimates.ranges import RESOLVED
from ntkrun.evidence.reasons import OK, Reason, Status


def complete(case: Case) -> Status:
    """every planned run has ended and none failed: those that are missing might disagree with the others"""
    failed, missing = int((case.runs["status"] == "failed").sum()), len(case.plan) - len(case.runs)
    counts = ", ".join(f"{count} {name}" for count, name in ((failed, "failed"), (missing, "missing")) if count)
    option = ", with --retry-failed" if failed else ""
    return Reason.UNFINISHED.of(planned=len(case.plan), counts=counts, option=option) if counts else OK


def none_diverged(case: Case) -> Status:
    """no run diverged"""
    count = int((case.runs["status"] == "diverged").sum())
    return Reason.DIVERGED.of(planned=len(case.plan), count=count) if count else OK


def trained(case: Case) -> Status:
    """the networks were trained"""
    return OK if int(case.plan["training.steps"].max()) > 0 else Reason.NOT_TRAINED.of()


def stable(case: Case) -> Status:
    """ηλ_max(K̂_0) < 2(1+μ), beyond which linear dynamics grow"""
    table = case.statistics
    if table.empty:
        return OK
    limit = 2 * (1 + table["training.momentum"].astype(float))
    share = table["step_size"] * table["lambda_max_0"] / limit
    if not (share >= 1).any():
        return OK
    worst = table.loc[share.idxmax()]
    value = f"{worst['step_size'] * worst['lambda_max_0']:.3g}"
    return Reason.UNSTABLE.of(value=value, axis=case.axis.name, at=f"{worst[AT]:g}")


def lipschitz(case: Case) -> Status:
    """σ is Lipschitz, as every theorem on training assumes"""
    if len(case.runs) and "lipschitz" in case.runs and case.runs["lipschitz"].iloc[0] in (False, 0):
        return Reason.NOT_LIPSCHITZ.of(activation=case.first["network.activation"])
    return OK


def resolved(case: Case) -> Status:
    """λ_min of K̂_0 is larger than the rounding error of the kernel in every run"""
    table = case.statistics
    dtype = str(case.first["training.dtype"])
    share = float((table["lambda_min_0"] / table["lambda_max_0"]).min()) if len(table) else 1.0
    if share >= RESOLVED[dtype]:
        return OK
    return (Reason.ROUNDED_AWAY if dtype == "float32" else Reason.SINGULAR).of(share=f"{share:.0e}")


def squared(case: Case) -> Status:
    """the loss is the squared error"""
    return _setting(case, "training.loss", case.first["training.loss"] == "squared", "the squared loss")


def another_loss(case: Case) -> Status:
    """the loss is not the squared error"""
    return _setting(case, "training.loss", case.first["training.loss"] != "squared", "other losses")


def full_batch(case: Case) -> Status:
    """every step uses all inputs"""
    return _setting(case, "training.batch", str(case.first["training.batch"]) == "full", "steps on all inputs")


def on_batches(case: Case) -> Status:
    """every step uses a batch of the inputs"""
    return _setting(case, "training.batch", str(case.first["training.batch"]) != "full", "batches")


def no_momentum(case: Case) -> Status:
    """there is no momentum"""
    key = "training.momentum"
    return _setting(case, key, float(case.first[key]) == 0, "training without momentum")


def _setting(case: Case, key: str, met: bool, about: str) -> Status:
    return OK if met else Reason.OTHER_SETTING.of(key=key, value=case.first[key], about=about)


def every_step(case: Case) -> Status:
    """the loss is measured at every step"""
    every = max(map(int, case.plan["probes.every"])) if "probes.every" in case.plan else 1
    return Reason.SPARSE_PROBES.of(every=every) if every > 1 else OK


def equal_times(case: Case) -> Status:
    """runs with different step sizes end at the same time t = η·step, within 1 %"""
    ends = case.statistics["step_size"] * case.statistics["training.steps"]
    if ends.empty or ends.max() <= 1.01 * ends.min():
        return OK
    return Reason.UNEQUAL_TIMES.of(first=f"{ends.min():.3g}", last=f"{ends.max():.3g}")
