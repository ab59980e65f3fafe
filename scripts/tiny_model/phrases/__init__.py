"""Sentence templates, one module per language, each with one dictionary `PHRASES`.

Invariant: every module has the same keys; `{e}` is the entity, `{v}` the value, `{p}` a passage,
`{q}` a question. Attribute rows are (key, label with article, value kind, statements, questions).
"""

from . import de, en, es, fr, it

LANGUAGES = {"en": en.PHRASES, "fr": fr.PHRASES, "de": de.PHRASES, "es": es.PHRASES, "it": it.PHRASES}
