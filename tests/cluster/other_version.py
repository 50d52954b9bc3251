"""``al-ray run`` that believes to have another version of Ray: ``python -m tests.cluster.other_version WORDS``."""

from al_ray.cli.run import run
from al_ray.runtime import driver
from tests.runtime.apart_fakes import drive_as_of_another_version

if __name__ == "__main__":
    import typer

    driver.drive = drive_as_of_another_version
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(run)
    app()
