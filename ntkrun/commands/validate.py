"""`ntkrun validate`."""

from ntkrun.commands.arguments import ConfigFile, Overrides
from ntkrun.commands.printing import say


def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a config and report all its errors at once, each with its line.

    Example: ntkrun validate configs/width.yaml network.depth=3
    """
    from ntkrun.config.reader import load_config
    from ntkrun.plan.runs import plan

    checked = load_config(config, overrides or [])
    runs, points = len(plan(checked)), len(checked.points)
    say(f"{config}: valid; {runs} run{'s' * (runs > 1)} at {points} grid point{'s' * (points > 1)}")
