"""Every error that stillproof raises on purpose.

    StillproofError
    ├── ConfigError          (ValueError)         exit 2  a command was configured wrongly
    ├── InputError           (ValueError)         exit 1  a file or record cannot be read as what it should be
    ├── SchemaError          (ValueError)         exit 1  written by a version whose schema is not known here
    ├── MismatchError        (ValueError)         exit 1  two artefacts do not belong together
    ├── MissingSignalError   (LookupError)        exit 1  a method needs data that the exchange does not carry
    ├── MissingExtraError    (ImportError)        exit 1  an optional dependency is not installed
    ├── OutputExistsError    (FileExistsError)    exit 2  would overwrite earlier work
    ├── StorageError         (OSError)            exit 1  the disk refused
    ├── TeacherError         (ConnectionError)    exit 1  the teacher stopped answering
    │   └── BusyError                             exit 1  it answers, and says only to come back later
    ├── BudgetError          (RuntimeError)       exit 1  a cap on requests, tokens or money was reached
    ├── TrainingError        (ArithmeticError)    exit 1  training diverged
    ├── TermsError           (PermissionError)    exit 3  the teacher's terms do not allow this
    └── CustodyError         (PermissionError)    exit 1  a key or sealed ledger was handled against its rules

Each says what happened, which thing it happened to, and the remedy. Errors that nobody expected are not
wrapped: they pass, with their traceback.
"""


class StillproofError(Exception):
    """What happened, to which thing, and what to do about it."""

    exit_code = 1

    def __init__(self, what: str, which: str = "", remedy: str = "") -> None:
        # Positional arguments only, so that the error survives pickling between processes.
        super().__init__(what, which, remedy)
        self.what = what
        self.which = which
        self.remedy = remedy

    def __str__(self) -> str:
        where = f" [{self.which}]" if self.which else ""
        remedy = f" Remedy: {self.remedy}" if self.remedy else ""
        return f"{self.what}{where}{remedy}"

    def to_json(self) -> dict[str, str | int]:
        return {
            "error": type(self).__name__,
            "what": self.what,
            "which": self.which,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


class ConfigError(StillproofError, ValueError):
    exit_code = 2


class InputError(StillproofError, ValueError):
    pass


class SchemaError(StillproofError, ValueError):
    pass


class MismatchError(StillproofError, ValueError):
    pass


class MissingSignalError(StillproofError, LookupError):
    pass


class MissingExtraError(StillproofError, ImportError):
    pass


class OutputExistsError(StillproofError, FileExistsError):
    exit_code = 2


class StorageError(StillproofError, OSError):
    pass


class TeacherError(StillproofError, ConnectionError):
    pass


class BusyError(TeacherError):
    pass


class BudgetError(StillproofError, RuntimeError):
    pass


class TrainingError(StillproofError, ArithmeticError):
    pass


class TermsError(StillproofError, PermissionError):
    exit_code = 3


class CustodyError(StillproofError, PermissionError):
    pass
