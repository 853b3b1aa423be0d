"""Output for readers and other tools, made from tables and verdicts: closing tables, figures, reports, exports."""
