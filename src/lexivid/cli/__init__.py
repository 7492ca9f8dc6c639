"""The command line: reads options, calls the library, prints. No logic that the library lacks.

A verb is one module of this package that registers itself with `root.app`. Data goes to standard output, progress and
messages to standard error. Exit status: 0 all done; 1 some files failed (each is a row that says why); 2 the call
itself is wrong; 130 or 143 interrupted by Ctrl-C or SIGTERM (what was finished is written).
"""

from lexivid.cli.root import app as app
from lexivid.cli.root import main as main

# In the order of `lexivid --help`.
# isort: off
from lexivid.cli import classify as classify
from lexivid.cli import labels as labels
from lexivid.cli import flow as flow
from lexivid.cli import demo as demo
from lexivid.cli import train as train
from lexivid.cli import evaluate as evaluate
from lexivid.cli import compare as compare
from lexivid.cli import push as push
from lexivid.cli import world as world
from lexivid.cli import pretrain as pretrain
from lexivid.cli import reproduce as reproduce
