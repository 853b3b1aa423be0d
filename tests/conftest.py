"""What every test runs under: few threads, so that workers side by side do not fight for the cores, and no pyplot."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(1)
