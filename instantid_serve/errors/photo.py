"""Errors of a photo, and of the faces in it."""

from __future__ import annotations

from instantid_serve.errors.caller import CallerError


class ImageError(CallerError):
    """The photo cannot be used."""

    code = "image_invalid"
    status = 422


class ImageCorruptError(ImageError):
    """The photo's bytes do not decode."""

    code = "image_corrupt"


class ImageFormatError(ImageError):
    """The photo is not a JPEG, PNG or WebP."""

    code = "image_unsupported_format"


class ImageTooLargeError(ImageError):
    """The photo has too many bytes."""

    code = "image_too_large"
    status = 413


class ImageTooManyPixelsError(ImageError):
    """The photo has too many pixels, or too long a side."""

    code = "image_too_many_pixels"


class ImageTooSmallError(ImageError):
    """The photo has too short a side."""

    code = "image_too_small"


class ImageAnimatedError(ImageError):
    """The photo has more than one frame."""

    code = "image_animated"


class FaceError(CallerError):
    """The photo decodes, but its faces cannot be used."""

    code = "face_invalid"
    status = 422


class FaceNotFoundError(FaceError):
    """There is no face in the photo."""

    code = "face_not_found"


class FaceTooSmallError(FaceError):
    """The chosen face is too small to carry an identity."""

    code = "face_too_small"


class MultipleFacesError(FaceError):
    """There are several faces and none was chosen."""

    code = "multiple_faces"


class FaceIndexError(FaceError):
    """The chosen face index is not among the faces found."""

    code = "face_index_out_of_range"


class PhotoGoneError(ImageError):
    """The photo was deleted before the work was done."""

    code = "image_gone"
