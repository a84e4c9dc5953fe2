"""The script that draws the page's charts, whole: no request leaves the page."""

from functools import cache
from importlib.metadata import version

from lossbench.store import DamagedError, Store, hashed

KIND = "bundles"
FILE = "vega.js"
SNIPPET = "window.vegaEmbed = vegaEmbed;"


@cache
def vega_bundle() -> str:
    """Have vl-convert put Vega, Vega-Lite and vega-embed together; by its version alone, in two seconds."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle(SNIPPET)
    return bundle.replace("</script", "<\\/script")


def kept_bundle(store: Store) -> str:
    """Take it from a store, or put it there."""
    key = hashed([version("vl-convert-python"), SNIPPET])
    entry = store.get(KIND, key)
    if entry is not None:
        try:
            return entry.read(FILE).decode()
        except DamagedError as error:
            store.say(f"{store.shown}: {error}; it is made anew")
    bundle = vega_bundle()
    store.put(KIND, key, {}, {FILE: bundle.encode()})
    return bundle
