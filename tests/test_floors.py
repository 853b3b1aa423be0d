"""The house has floors: what each may import, seen by importing it in a process of its own."""

import subprocess
import sys

import pytest


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


EVIDENCE = (
    "baseline cases check_figure check_tables claims claims_table conditions edge ensembles estimates figures judging "
    "pairing parts per_run rates regression report.configs report.document report.html report.markdown report.page "
    "report.stored report.svg summary tables vanishing verdicts"
)
ENGINE = (
    "blocks checkpoint clock costs data descent detail footprint kernel memory modes modules network operators outputs "
    "parametrization probes rates readout recorder stack tiles training"
)
LAB = (
    "asked attempt budget checkpoints config costs devices doctor.machine doctor.repair engines engines.local "
    "engines.opening engines.ray engines.ray_workers execute files forecast interrupts kernel_blocks lease limits loop "
    "parts plan points profile provenance results sections shards slurm store stored tables tasks template watch "
    "yaml_reader"
)


def _imports(floor: str, names: str) -> str:
    return "\n".join(f"import ntkrun.{floor}.{name}" for name in names.split())


@pytest.mark.parametrize(
    ("code", "never"),
    [
        (_imports("evidence", EVIDENCE), ("torch", "ntkrun.lab", "ntkrun.engine", "ntkrun.theory", "pyarrow.parquet")),
        (
            _imports("theory", "activations components duals limit"),
            ("ntkrun.engine", "ntkrun.lab", "ntkrun.evidence", "pandas"),
        ),
        (_imports("engine", ENGINE), ("ntkrun.lab", "ntkrun.evidence", "matplotlib", "pandas")),
        (_imports("lab", LAB), ("ntkrun.evidence.verdicts", "ntkrun.evidence.figures", "matplotlib")),
        (
            "import ntkrun.cli",
            ("torch", "matplotlib", "pandas", "pydantic", "sklearn", "scipy", "numpy", "rich.table", "jinja2"),
        ),
        ("import ntkrun.lab.config, ntkrun.lab.plan", ("torch", "sklearn", "scipy", "matplotlib")),
        ("import ntkrun.theory.activations, ntkrun.theory.losses, ntkrun.engine.data", ("torch", "pandas", "sklearn")),
        ("import ntkrun.exporting, ntkrun.commands.tables", ("torch", "matplotlib", "tensorboard", "ntkrun.engine")),
        ("import ntkrun; ntkrun.read_results", ("torch", "matplotlib", "sklearn")),
        ("import ntkrun.experiments.table", ("torch", "sklearn", "ntkrun.engine", "ntkrun.experiments.runner")),
    ],
    ids=["evidence", "theory", "engine", "lab", "cli", "config", "names", "exporting", "results", "experiments"],
)
def test_a_floor_imports_nothing_above_it(code: str, never: tuple[str, ...]) -> None:
    found = _modules_after(code)
    assert "ntkrun" in found
    assert not found.intersection(never)


def test_plotting_and_reporting_need_no_torch() -> None:
    code = "import ntkrun.cli\nimport ntkrun.reporting\nfrom ntkrun.evidence.figures import draw_all"
    assert "torch" not in _modules_after(code)


def test_public_names_are_there() -> None:
    import ntkrun

    for name in ntkrun.__all__:
        assert getattr(ntkrun, name) is not None
    assert set(ntkrun.__all__) <= set(dir(ntkrun))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ntkrun.nothing  # noqa: B018
