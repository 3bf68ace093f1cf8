import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def said(monkeypatch):
    """Lines that were logged."""
    lines = []
    logger = MMLogger.get_instance("pretrained")
    monkeypatch.setattr(
        type(logger), "callHandlers", lambda _, record: lines.append(record.getMessage())
    )
    return lines
