"""What a user should be told about how a chat template treats the data; changes nothing."""

from __future__ import annotations

from tunewright.data.turns import Script, name_of

DATE_NOTE = "the chat template writes today's date; prompts of another day differ from those trained on"
TOOLS_NOTE = "the chat template does not write the tools of a conversation; the model will not see them"
REASONING_NOTE = "the chat template does not write reasoning_content; it is not trained"


def unseen(script: Script, text: str) -> list[str]:
    """Notes on the parts of a conversation that do not stand in its rendered ``text``."""
    notes = []
    if any(name_of(tool) not in text for tool in script.tools):
        notes.append(TOOLS_NOTE)
    thoughts = [str(m.get("reasoning_content") or "").strip() for m in script.messages[-1:]]
    if any(thought not in text for thought in thoughts):
        notes.append(REASONING_NOTE)
    return notes
