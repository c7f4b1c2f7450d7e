"""What the OpenAPI description of the service says beyond the routes themselves."""

from __future__ import annotations

import http
from typing import Any

from starlette.responses import Response

DESCRIPTION = """Send a picture, get its faces: landmarks, expected errors and confidence, in pixels of the picture.

Coordinates are 0-based, with pixel centres at whole numbers. Nothing that is sent is kept. Refused requests are
answered with `application/problem+json`, whose `detail` says what was given and what is allowed."""

TAGS = [
    {"name": "faces", "description": "Landmarks of pictures"},
    {"name": "about", "description": "Models and layouts"},
    {"name": "operation", "description": "For whoever runs the service"},
]


def _refusal(status: int, detail: str) -> dict[str, Any]:
    title = http.HTTPStatus(status).phrase
    example = {"title": title, "status": status, "detail": detail}
    schema = {
        "type": "object",
        "required": ["title", "status", "detail"],
        "properties": {"title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}},
    }
    return {"description": title, "content": {"application/problem+json": {"schema": schema, "example": example}}}


REFUSALS: dict[int | str, dict[str, Any]] = {
    401: _refusal(401, "this service needs a token: Authorization: Bearer ..."),
    503: _refusal(503, "128 pictures wait already; the service holds at most 128"),
}
REFUSALS[503]["headers"] = {
    "Retry-After": {"description": "Seconds after which to try again", "schema": {"type": "integer"}}
}

_OF_PICTURES: dict[int | str, dict[str, Any]] = {
    400: _refusal(400, "damaged or truncated picture (image file is truncated)"),
    408: _refusal(408, "the body did not arrive in time; at most 20 s are allowed"),
    413: _refusal(413, "20000x20000 pixels; at most 25 megapixels are allowed"),
    415: _refusal(415, "not a picture in a known format (JPEG, PNG, WEBP, AVIF, TIFF, BMP, GIF, PPM)"),
    422: _refusal(422, "model 'large'; this service has small, tiny-128"),
}

_FACE = {
    "box": [141.34, 63.85, 229.59, 176.79],
    "score": 0.935,
    "mean_confidence": 0.907,
    "landmarks": [[140.28, 102.18], [140.7, 114.46]],
    "spread": [[0.993, 2.041], [0.751, 1.831]],
    "confidence": [0.7006, 0.774],
    "visible": [0.98, 0.99],
}
_RESULT = {"file": "-", "width": 400, "height": 400, "layout": "ibug68", "model": "small", "faces": [_FACE]}

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_POINTS = {"type": "array", "items": {**_NUMBERS, "minItems": 2, "maxItems": 2}}
_FACE_SCHEMA = {
    "type": "object",
    "properties": {
        "box": {**_NUMBERS, "minItems": 4, "maxItems": 4, "description": "x1, y1, x2, y2 in pixels"},
        "score": {"type": "number", "description": "The detector's"},
        "mean_confidence": {"type": "number", "description": "Of the points, which count by visible if there is one"},
        "landmarks": {**_POINTS, "description": "x, y of each point of the layout, in pixels"},
        "spread": {**_POINTS, "description": "Expected absolute error of each point along x and y, in pixels"},
        "confidence": {**_NUMBERS, "description": "Of each point, 0 to 1"},
        "visible": {
            **_NUMBERS,
            "description": "How likely each point can be seen, 0 to 1; only of models that tell it",
        },
    },
}
_RESULT_SCHEMA = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "description": "The picture's name in the form; - for a body that is the picture"},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "layout": {"type": "string"},
        "model": {"type": "string"},
        "faces": {"type": "array", "items": _FACE_SCHEMA},
    },
}

_BYTES = {"schema": {"type": "string", "format": "binary"}}


def _body(pictures: str) -> dict[str, Any]:
    form = {
        "type": "object",
        "required": ["picture"],
        "properties": {
            "picture": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": pictures},
            "boxes": {"type": "string", "description": "As the parameter of that name"},
        },
    }
    content = {"image/*": _BYTES, "application/octet-stream": _BYTES, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


LANDMARKS: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "One entry for each picture; each face of the example is cut off after two points",
            "content": {
                "application/json": {"schema": {"type": "array", "items": _RESULT_SCHEMA}, "example": [_RESULT]},
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        },
        **_OF_PICTURES,
    },
    "openapi_extra": _body("The pictures"),
}
OVERLAY: dict[str, Any] = {
    "response_class": Response,
    "responses": {200: {"description": "The drawing", "content": {"image/png": _BYTES}}, **_OF_PICTURES},
    "openapi_extra": _body("One picture"),
}
_MODEL = {"name": "small", "layout": "ibug68", "input": 224, "commercial_use": False}
_LAYOUT = {
    "name": "five",
    "points": ["right_eye", "left_eye", "nose_tip", "right_mouth_corner", "left_mouth_corner"],
    "parts": {"right_eye": [0], "left_eye": [1], "nose": [2], "mouth": [3, 4]},
    "edges": [[3, 4]],
    "mirror": [1, 0, 2, 4, 3],
}

MODELS: dict[str, Any] = {
    "responses": {
        200: {
            "description": "One entry for each model; that of the example is shortened",
            "content": {"application/json": {"example": [_MODEL]}},
        }
    }
}
LAYOUTS: dict[str, Any] = {
    "responses": {
        200: {
            "description": "One entry for each layout; that of the example is shortened",
            "content": {"application/json": {"example": [_LAYOUT]}},
        }
    }
}
METRICS: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "Prometheus's text format",
            "content": {"text/plain": {"example": 'octamark_requests_total{route="/v1/landmarks",status="200"} 12.0'}},
        }
    },
}
