"""The report: from what sweeps and experiments left on disk to one plain page, and its three renderings: HTML for
readers, Markdown for pull requests, JSON for machines. Draws, fits and judges nothing."""
