"""Texts that try to command the model or its user's program: instructions against instructions, addresses
made to carry data away, encoded blocks, text that no reader sees. Each is a few precise patterns, English
only.

Rows that talk about such attacks meet them, too: a hit is a reason to read the row.
"""

from __future__ import annotations

import base64
import binascii
import re

_RULES = r"(?:instructions?|prompts?|rules|directions|directives|guidelines|commands)"
_BEFORE = r"(?:previous|prior|earlier|above|preceding|foregoing|original|initial|system)"
_INJECTION = re.compile(
    rf"\b(?:ignore|disregard|forget|override|bypass|discard|skip)\s+(?:(?:all|any|every|the|your|my|of|these|those"
    rf"|everything)\s+){{0,3}}(?:(?:and|or|other|safety)\s+)?{_BEFORE}\s+(?:(?:and|safety|system)\s+)*{_RULES}\b"
    rf"|\b(?:ignore|disregard|forget|override|bypass)\s+(?:all\s+)?(?:the\s+|your\s+){_RULES}\s+"
    r"(?:above|before|given|you were given|you have been given)\b"
    r"|\b(?:reveal|print|show|output|repeat|display|leak|expose|tell me)\s+(?:(?:me|us|all|the|your|of|full"
    r"|entire|exact)\s+){1,4}(?:system|hidden|secret|initial)\s+(?:prompt|instructions?|message)\b"
    r"|\bdo\s+not\s+(?:tell|inform|alert|notify|mention\s+(?:this|it)\s+to)\s+the\s+user\b"
    r"|\byou\s+are\s+now\s+(?:in\s+)?(?:DAN\b|developer\s+mode|jailbroken|unrestricted|free\s+(?:of|from)\s+"
    r"(?:all|any|your)\s+(?:rules|restrictions))"
    r"|\bpretend\s+(?:that\s+)?you\s+have\s+no\s+(?:rules|restrictions|guidelines)\b"
    r"|(?:^|\n)\s*(?:new|updated|real)\s+(?:system\s+)?instructions?\s*:"
    r"|\[(?:system|admin)\]\s*\(#(?:instructions?|override)\)",
    re.IGNORECASE,
)
_INJECTION_HINTS = (
    "instruction", "prompt", "rules", "direct", "guideline", "command", "the user", "you are now",
    "restriction", "message",
)  # fmt: skip
_CARRIES = (
    r"(?:data|secret|token|key|prompt|conversation|chat|history|passwords?|context|leak|exfil|cookie|session)"
)
_EXFILTRATION = re.compile(
    rf"!\[[^\]\n]{{0,200}}\]\(\s*https?://[^\s)]{{1,300}}\?[^\s)]*(?:{_CARRIES}=|[{{<\[]|%7B)"
    r"|\b(?:send|post|forward|upload|exfiltrate|transmit|leak)\b[^.\n]{0,80}\b(?:conversation|chat history"
    r"|passwords?|api keys?|credentials?|secrets?|system prompt|cookies?|session tokens?)\b[^.\n]{0,60}\bto\s+https?://"
    rf"|https?://[^\s<>\"')]{{1,200}}[?&]{_CARRIES}=(?:\{{|<|\[|%7B|\$)",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{100,}={0,2}")
_ESCAPES = re.compile(r"(?:\\x[0-9a-fA-F]{2}){20,}|(?:%[0-9a-fA-F]{2}){30,}")
# Tag characters spell invisible ASCII; after a black flag they are the flag of Scotland and its like.
_TAGS = re.compile("(?<!\U0001f3f4)(?<![\U000e0020-\U000e007f])[\U000e0020-\U000e007f]{2,}")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_ZERO_WIDTH = re.compile("[\u200b-\u200d\u2060-\u2064\ufeff]{8,}")


def injects(text: str) -> bool:
    """True for an order to set instructions aside, to reveal them, or to hide something from the user."""
    lower = text.lower()
    return any(hint in lower for hint in _INJECTION_HINTS) and _INJECTION.search(text) is not None


def exfiltrates(text: str) -> bool:
    """True for an address built to carry a conversation away, or an instruction to send secrets to one."""
    return "://" in text and _EXFILTRATION.search(text) is not None


def has_blob(text: str) -> bool:
    """True for base64 of 100 characters that decodes, or a run of escaped bytes: words nobody sees."""
    if any(map(_decodes, _BASE64.findall(text))):
        return True
    return ("\\x" in text or "%" in text) and _ESCAPES.search(text) is not None


def _decodes(block: str) -> bool:
    """Upper case, lower case and digits in one block that base64 can read; no hash and no gene."""
    mixed = any(map(str.isupper, block)) and any(map(str.islower, block)) and any(map(str.isdigit, block))
    if not mixed:
        return False
    whole = block.rstrip("=")[: len(block) // 4 * 4]
    try:
        base64.b64decode(whole[: len(whole) // 4 * 4], validate=True)
    except binascii.Error:
        return False
    return True


def has_hidden_text(text: str) -> bool:
    """True for characters that carry a message unseen: tags, runs of selectors or of zero width."""
    if text.isascii():
        return False
    return any(pattern.search(text) is not None for pattern in (_TAGS, _SELECTORS, _ZERO_WIDTH))
