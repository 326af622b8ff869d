"""The neighbourhood of a term: what one mutation can make of it, up to the fresh subterms that it draws.

Where a mutation draws one fresh subterm, the neighbourhood has every term of the least size of that type; where it
draws several, the first such term of each. So it is finite, and a mutation that draws first terms never leaves it.
"""

from collections.abc import Iterator

from archloom.search_space.edits import KINDS, site_of, written
from archloom.search_space.identity import canonical
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, TermError
from archloom.search_space.variation import Child, fits


def neighbours(architecture: Term, *, sampler: Sampler) -> Iterator[Child]:
    """Every architecture in budget that is one edit away, as a canonical term, once, and lazily.

    Each comes with the first kind of mutation that makes it.
    """
    site = site_of(canonical(architecture), sampler.grammar)
    seen = {site.root.text}
    for kind, (_, options) in KINDS.items():
        for place in site.spots:
            for option in options(site, place):
                for make in written(option, sampler.grammar.least_terms):
                    try:
                        child = canonical(make())
                    except TermError:
                        continue
                    if child.text not in seen:
                        seen.add(child.text)
                        if fits(child, site, sampler):
                            yield Child(term=child, operator=kind)
