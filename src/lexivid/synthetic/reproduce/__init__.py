"""The MOV paper's tables and figures, made from nothing on the synthetic world: `reproduce(["table1"], "out")`.

plan.py says which systems a table needs, clips.py makes their data, rows.py trains and runs one of them, run.py all of
them; scores.py, tables.py, figures.py (of parts.py) turn what they made into results, results.py puts those
together for `lexivid.synthetic.reproduce.report`.
"""

from lexivid.synthetic.reproduce.plan import NAMES, QUICK, Scale
from lexivid.synthetic.reproduce.run import RunProgress, reproduce

__all__ = ["NAMES", "QUICK", "RunProgress", "Scale", "reproduce"]
