"""Coded errors: every one names the field, what came, what was expected and the cure. Codes are never reused."""


class WetreadError(Exception):
    """A coded error about outside input; `code` is stable and listed in docs/reference.md."""

    code = "E100"

    def __str__(self) -> str:
        return f"[{self.code}] {super().__str__()}"


class OrderRejected(WetreadError):
    code = "E101"       # an order lacks what it needs


class BookError(WetreadError):
    code = "E102"       # the protocol book or the rules are malformed


class MessageError(WetreadError):
    code = "E103"       # bytes that are no HL7 v2 message


class MessageRefused(WetreadError):
    code = "E104"       # a readable HL7 v2 message that may not be applied


class ShapeError(WetreadError):
    code = "E105"       # an array or tensor has the wrong shape


class ImageError(WetreadError):
    code = "E106"       # a file is no image we can read


class SeriesError(WetreadError):
    code = "E107"       # instances that do not make one volume


class ModelError(WetreadError):
    code = "E108"       # model folder missing, altered or of another version


class InputError(WetreadError):
    code = "E109"       # a request, a row of JSONL or an option is malformed


class NotFound(WetreadError):
    code = "E110"       # no such order, study or draft


class StateError(WetreadError):
    code = "E111"       # the step is not allowed in the present state (signing a cancelled draft, say)


class NotAllowed(WetreadError):
    code = "E112"       # no key, no session, no CSRF token, or a peer not on the allow-list


class StoreError(WetreadError):
    code = "E113"       # the store cannot be written or is of another schema
    passes = False      # True: the database is away or full, and the same step can be taken when it is back


class StoreFull(StoreError):
    code = "E117"       # the disk that keeps everything is full
    passes = True


class SimulatorError(WetreadError):
    code = "E114"       # a simulation was asked for that cannot be made


# why no draft is written for a study; docs/reference.md says what each means
REASONS = ("empty", "modality", "not-a-head", "plane", "contrast", "coverage", "too-many-slices", "pixels", "rescale", "burnt-in", "sequences",
           "out-of-distribution", "images-not-readable")


class StudyRefused(WetreadError):
    """A study no draft is written for; `reason`, one of REASONS, is the machine-readable code that goes into the draft."""

    code = "E115"

    def __init__(self, reason: str, message: str) -> None:
        assert reason in REASONS, reason
        super().__init__(message)
        self.reason = reason


class OutputError(WetreadError):
    code = "E116"       # a file or folder cannot be written: disk full, no right to
