"""The application, with Generators that write down every step they run."""

from pathlib import Path

from instantid_serve.serving import app
from instantid_serve.serving.replicas import generator


class Generator(generator.Generator):
    """Appends a line with the number of requests to a file after every step, those of its warm-up apart."""

    _warm = False

    def __init__(self, args):
        super().__init__(args)
        self._warm = True

    def _opened(self, settings, on_step):
        path = steps_file(settings.results.folder)

        def stepped(step):
            if self._warm:
                with path.open("a") as file:
                    file.write(f"{step.requests}\n")
            on_step(step)

        return super()._opened(settings, stepped)


def steps_file(results_folder):
    return Path(results_folder).parent / "steps.txt"


def build(args):
    return app.compose(args, generator_class=Generator)
