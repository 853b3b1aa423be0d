"""The conditions under which a claim can be judged. Each returns a sentence that says what is not met, or "". A report
prints its docstring."""

from ntkrun.evidence.estimates.cases import AT, Case


def complete(case: Case) -> str:
    """every planned run reached its last step: those that did not may be the very ones that say otherwise"""
    planned, finished = len(case.plan), len(case.statistics)
    if finished == planned:
        return ""
    by_status = case.runs["status"].value_counts()
    parts = [f"{count} {status}" for status, count in by_status.items() if status != "done"]
    missing = planned - len(case.runs)
    parts += [f"{missing} missing"] if missing else []
    cures = []
    if missing or "failed" in by_status:
        cures.append("run the sweep to its end" + (", with --retry-failed" if "failed" in by_status else ""))
    if "diverged" in by_status:
        cures.append("take a smaller step, at which none diverges")
    return f"of {planned} planned runs {', '.join(parts)}: {'; '.join(cures)}"


def trained(case: Case) -> str:
    """something was trained at all"""
    return "" if int(case.plan["training.steps"].max()) > 0 else "training.steps is 0: nothing was trained"


def stable(case: Case) -> str:
    """ηλ_max(K̂_0) < 2(1+μ), beyond which linear dynamics grow"""
    table = case.statistics
    if table.empty:
        return ""
    limit = 2 * (1 + table["training.momentum"].astype(float))
    share = table["step_size"] * table["lambda_max_0"] / limit
    if not (share >= 1).any():
        return ""
    worst = table.loc[share.idxmax()]
    value, where = worst["step_size"] * worst["lambda_max_0"], f"{case.axis.name} {worst[AT]:g}"
    return f"ηλ_max of the initial kernel is {value:.3g} at {where}, beyond the edge of stability; take a smaller step"


# Of λ_max: an eigenvalue of a kernel in that precision below is zero to rounding.
RESOLVED = {"float32": 1e-6, "float64": 1e-14}


def resolved(case: Case) -> str:
    """λ_min of K̂_0 stands above the rounding of the kernel, in every run"""
    table = case.statistics
    dtype = str(case.first["training.dtype"])
    share = float((table["lambda_min_0"] / table["lambda_max_0"]).min()) if len(table) else 1.0
    if share >= RESOLVED[dtype]:
        return ""
    cure = "; use training.dtype float64" if dtype == "float32" else ": repeated inputs?"
    return f"λ_min of K̂_0 is {share:.0e} of λ_max, zero to rounding in {dtype}{cure}"


def squared(case: Case) -> str:
    """the loss is the squared error"""
    return "" if case.first["training.loss"] == "squared" else "training.loss is not squared"


def another_loss(case: Case) -> str:
    """the loss is another than the squared error"""
    return "training.loss is squared: this claim is about others" if case.first["training.loss"] == "squared" else ""


def full_batch(case: Case) -> str:
    """every step takes all inputs"""
    return "" if str(case.first["training.batch"]) == "full" else "training.batch is not full"


def on_batches(case: Case) -> str:
    """every step takes a batch of the inputs"""
    return "training.batch is full: this claim is about batches" if not full_batch(case) else ""


def every_step(case: Case) -> str:
    """the loss is measured at every step"""
    every = max(map(int, case.plan["probes.every"])) if "probes.every" in case.plan else 1
    return f"the loss is measured every {every} steps, which may miss a rise: set probes.every: 1" if every > 1 else ""


def no_momentum(case: Case) -> str:
    """there is no momentum"""
    return "" if float(case.first["training.momentum"]) == 0 else "training.momentum is not 0"


def equal_times(case: Case) -> str:
    """runs of different step sizes end at the same time t = η·step (to 1 %)"""
    ends = case.statistics["step_size"] * case.statistics["training.steps"]
    if ends.empty or ends.max() <= 1.01 * ends.min():
        return ""
    return f"the runs end at times {ends.min():.3g} to {ends.max():.3g}: vary training.steps with the step size (zip)"
