"""From tables and verdicts to what people and other tools read: closing tables, figures, pages, exports."""
