"""Words of an order that speak to the machine, not of the patient: they are not read."""
import re

# each begins a clause that is left out up to the next comma, stop or line end: what stands behind it may be the patient's
TO_THE_MACHINE = re.compile(r"""
    (?: \b(?:pl(?:ea)?se?\s+)?(?:ignore|disregard|forget|override|bypass|skip|drop|suppress)\b [^,.;\n]{0,40}
            \b(?:rules?|instructions?|prompts?|guidelines?|safety|guardrails?|polic(?:y|ies)|flags?|checks?|warnings?)\b
      | \b(?:notes?|messages?|instructions?|hints?|attention)\s+(?:to|for)\s+(?:the\s+)?
            (?:ai|llm|model|algorithm|system|software|computer|bot|assistant|classifier|chatgpt)\b
      | (?:^|(?<=[\n.;,>]))\s*(?:system|assistant|developer|user)\s*:
      | (?-i:\b(?:SYSTEM|ASSISTANT|USER))\s*:
      | </?[a-z_]+>
      | \b(?:mark|flag|label|classify|treat|set|make)\s+(?:(?:it|this|that|the|order|exam|study|priority|urgency|as|to|=|a)\s+)*
            (?:stat|urgent|emergent|emergency|routine|critical|auto\w*)\b
      | \b(?:auto[ -]?approve|approve\s+(?:it\s+)?auto\w*|disposition\s*[:=]|(?:respond|reply|answer)\s+(?:with|only)|output\s+only|as\s+an\s+ai)\b
      | \b(?:protocol|answer|suggestion|contrast)\s+(?:must|has\s+to)\s+be\b
      | \bno\s+safety\s+flags?\b
    ) [^,.;\n]* [,.;]*
    """, re.I | re.X)


def without_instructions(text: str) -> str:
    """The text with blanks in their place, so that offsets stay; a stop that was set before one at the end goes with it."""
    read = TO_THE_MACHINE.sub(lambda match: " " * len(match[0]), text)
    return text if read == text else read.rstrip(" .,;\n\t")
