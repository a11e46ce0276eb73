"""The application, with Generators that write down every step they run."""

from pathlib import Path

from instantid_serve.serving import app
from instantid_serve.serving.replicas import generator
from instantid_serve.settings import Settings


class Generator(generator.Generator):
    """Appends a line with the number of requests to a file after every step, its warm-up's not counted."""

    def __init__(self, args):
        super().__init__(args)
        path = steps_file(Settings.load(dict(args)).results.folder)
        report = self._engine._on_step

        def stepped(step):
            with path.open("a") as file:
                file.write(f"{step.requests}\n")
            report(step)

        self._engine._on_step = stepped


def steps_file(results_folder):
    return Path(results_folder).parent / "steps.txt"


def build(args):
    return app.compose(args, generator_class=Generator)
