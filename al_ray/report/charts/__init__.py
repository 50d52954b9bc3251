"""The drawings of the report: inline SVG in the colours of the page's CSS variables, made for small screens."""
