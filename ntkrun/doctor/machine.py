"""The machine as ntkrun sees it: versions, processors, BLAS, memory, and possible problems."""

import re
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_info

from ntkrun.doctor.results_directory import Finding
from ntkrun.engine.devices import GIB, free_bytes
from ntkrun.plan.stacks import SHARE
from ntkrun.processes import usable_cores
from ntkrun.run.provenance import provenance

DEPENDENCIES = ("matplotlib", "pydantic", "pyyaml", "jinja2", "lazy-loader", "rich", "safetensors", "typer")
FOR_DEVELOPERS = ("test", "lint", "dev")  # extras that a sweep does not need
# Type names of network file systems begin with these, after removing the "fuse." that some have.
NETWORK = (
    *("nfs", "cifs", "smb", "afs", "9p", "virtiofs", "sshfs", "lustre", "gpfs", "beegfs", "fhgfs", "ceph", "gluster"),
    *("pvfs2", "orangefs", "wekafs", "panfs", "gfs2", "ocfs2", "juicefs", "moosefs", "mfs", "quobyte", "s3fs"),
)
LITTLE = 2**30  # bytes of free disk below which the doctor warns


def machine(results: Path | None = None) -> dict[str, Any]:
    """Return versions, devices, BLAS and threads, free memory, and the file system of a results directory."""
    facts = provenance(torch.device("cpu"))
    facts["versions"] |= {name: version(name) for name in DEPENDENCIES}
    facts["usable_cores"] = usable_cores()
    facts["devices"] = [_cuda(k) for k in range(torch.cuda.device_count())]
    facts["blas"] = [
        {key: pool.get(key) for key in ("user_api", "internal_api", "version", "num_threads")}
        for pool in sorted(threadpool_info(), key=lambda pool: pool["filepath"])
    ]
    facts["memory_free"] = free_bytes(torch.device("cpu"))
    facts["file_system"] = _file_system(results) if results else None
    del facts["device"], facts["gpu"]
    return facts


def lines(facts: dict[str, Any]) -> list[str]:
    """Return the facts from `machine` as lines of text."""
    commit = f" (commit {facts['commit'][:12]}{', changed' * bool(facts['dirty'])})" if facts["commit"] else ""
    versions = dict(facts["versions"])
    first = f"ntkrun {versions.pop('ntkrun')}{commit}, python {versions.pop('python')}, {facts['system']}"
    pools = [f"{pool['internal_api']} {pool['version'] or ''}".strip() + f" x {pool['num_threads']}"
             for pool in facts["blas"]]  # fmt: skip
    free = facts["memory_free"]
    report = [
        first,
        ", ".join(f"{name} {number}" for name, number in versions.items()),
        f"cpu: {facts['cpu']}, {facts['usable_cores']} of {facts['cores']} cores, torch on {facts['threads']} threads",
        f"blas and openmp: {', '.join(pools) or 'none found'}",
        f"cuda: {', '.join(device['name'] for device in facts['devices']) or 'none'}",
        f"memory: {free / GIB:.1f} GiB free, {SHARE * free / GIB:.1f} GiB of it for stacks",
    ]
    if system := facts["file_system"]:
        report.append(f"results: {system['type'] or 'unknown file system'}, {system['free'] / GIB:.1f} GiB free")
    return report


def odd(facts: dict[str, Any]) -> Iterator[Finding]:
    """Yield what costs time or may cost a result. None of this is damage in a results directory."""
    usable = facts["usable_cores"]
    most = max([facts["threads"], *(pool["num_threads"] for pool in facts["blas"])])
    if most > usable:
        what = f"{most} threads on {usable} usable cores: they compete for the cores"
        yield Finding("threads", what, f"export OMP_NUM_THREADS={usable}", "note")
    for extra, package in _missing_extras():
        yield Finding(f"extra {extra}", f"{package} is not installed", f"pip install 'ntkrun[{extra}]'", "note")
    system = facts["file_system"]
    if system and system["free"] < LITTLE:
        yield Finding("results", "less than 1 GiB of disk is free", "make room before a long sweep", "note")
    if system and str(system["type"]).removeprefix("fuse.").startswith(NETWORK):
        what = f"a network file system ({system['type']}): its locks may not reach other machines"
        advice = "to sweep from several machines use --shard, and start no shard twice"
        yield Finding("results", what, advice, "note")
    if system and system["type"] == "tmpfs":
        yield Finding("results", "in memory: lost when the machine restarts", "choose a disk with --results", "note")


def _cuda(index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    return {"name": torch.cuda.get_device_name(index), "memory_free": free, "memory": total}


def _missing_extras() -> Iterator[tuple[str, str]]:
    for text in requires("ntkrun") or ():
        match = re.match(r"([\w.-]+).*\bextra == ['\"]([\w-]+)['\"]", text)
        if match and match[2] not in FOR_DEVELOPERS and not _installed(match[1]):
            yield match[2], match[1]


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _file_system(path: Path) -> dict[str, Any]:
    """Return the type of a directory's file system, None if it is not known, and its free bytes."""
    existing = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    return {"type": _mounted(existing.resolve()), "free": shutil.disk_usage(existing).free}


def _mounted(path: Path, table: Path = Path("/proc/self/mounts")) -> str | None:
    if not table.exists():
        return None
    mounts = [line.split()[1:3] for line in table.read_text(encoding="utf-8", errors="replace").splitlines()]
    enclosing = [(len(folder), kind) for folder, kind in mounts if path.is_relative_to(folder)]
    return max(enclosing, default=(0, None))[1]
