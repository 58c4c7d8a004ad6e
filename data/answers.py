"""What a model writes: an answer in text, with code in Markdown fences."""

import re

NO_FENCE = r"(?:(?!```)[\s\S])*"
ANY_FENCE = re.compile(rf"```[^\n`]*\n({NO_FENCE})(?:```|\Z)")
