"""HTML pages from templates of this package, all on page.html.jinja: one look, self-contained, values escaped."""

from __future__ import annotations

from typing import Any


def render_page(template: str, **values: Any) -> str:
    """The page of a template, named by its path inside the package ("synthetic/reproduce/report.html.jinja").

    A name that the template asks for and `values` lacks is an error, not an empty place.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lexivid", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
