"""`ntkrun schema`."""

from ntkrun.commands.printing import print_json


def schema() -> None:
    """Print the JSON Schema of configs, for editors.

    Example: ntkrun schema > ntkrun.schema.json
    """
    from ntkrun.config.schema import Config

    print_json(Config.model_json_schema())
