"""Writes the schemas anew."""

from m3agiqa.outputs import write
from m3agiqa.schemas import FOLDER, schemas, text

if __name__ == "__main__":
    for name, schema in schemas().items():
        write(FOLDER / name, text(schema))
        print(FOLDER / name)
