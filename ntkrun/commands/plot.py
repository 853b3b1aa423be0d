"""`ntkrun plot`."""

from ntkrun.commands.arguments import Format, RunDirectory
from ntkrun.commands.printing import say, under_way
from ntkrun.evidence.report.conclusion import draw_figures, extra_formats


def plot(run_dir: RunDirectory, format_: Format = "png,svg") -> None:
    """Draw the figures again from the stored tables alone, as PNG and SVG, and as PDF on request.

    Example: ntkrun plot results/width --format pdf
    """
    more = extra_formats(format_)
    with under_way("drawing figures"):
        from ntkrun.store.results_directory import read_results

        paths = draw_figures(read_results(run_dir), more)
    if not paths:
        say(f"{run_dir}: nothing to draw yet; no run is finished", error=True)
    for path in paths:
        say(path)
