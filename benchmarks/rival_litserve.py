"""Rival: LitServe with the same model folder, decoder and engine as the service.

``python -m benchmarks.serving compare`` starts it with the defaults below; alone it is a server for trying settings. Of
LitServe 0.2.19, on two cores:

- Two workers of one thread and no batches (the default), beside batches of 8 within 2 ms, requests/s with 110 kB: 199
  and 164 from 8 clients, 237 and 229 from 32. A worker that batches asks the queue every millisecond, or without pause
  where ``batch_timeout`` is 0; one that does not waits for the next request.
- The image as the body (the default), beside a file of a form: 132 and 131 from 8 clients, 204 and 114 from 32.
- Not decided yet: two API servers, one worker whose engine has two threads, and answers over a queue.
"""

# Annotations are not postponed: LitServe reads those of decode_request.
import argparse
import io
import json
from pathlib import Path
from typing import Annotated, Any

import litserve
from fastapi import Body, Request
from fastapi.responses import Response
from PIL import Image

from imgcls_ray.errors import ImageError
from imgcls_ray.models.classifier import ImageClassifier, ModelInput, Prediction, decode_model_input
from imgcls_ray.models.folder import open_model_folder

PATH = "/predict"
_TOP_K = 5


class Classify(litserve.LitAPI):  # type: ignore[misc]
    """Label images in a worker process: decode, classify, write JSON."""

    def __init__(self, model: Path, num_threads: int, **options: Any) -> None:
        super().__init__(api_path=PATH, **options)
        self._model = model
        self._num_threads = num_threads

    def setup(self, device: str) -> None:
        folder = open_model_folder(self._model)
        self.preprocess = folder.spec.preprocess
        self.class_names = folder.spec.class_names
        self.classifier = ImageClassifier.load(
            folder, batch_size=self.max_batch_size, num_threads=self._num_threads, pad=False, top_k=_TOP_K
        )
        # Ready means warm, as it does in ours: the first picture loads the decoder's libraries, and the engine prepares
        # itself for each size of batch when it first comes.
        file = io.BytesIO()
        Image.new("RGB", (300, 200)).save(file, "JPEG")
        decoded = self.decode(file.getvalue())
        for size in range(1, self.max_batch_size + 1):
            list(self.classifier.classify_inputs([decoded] * size))

    def decode(self, data: bytes) -> ModelInput | ImageError:
        return decode_model_input(data, self.preprocess, self.classifier.limits)

    def batch(self, inputs: list[ModelInput | ImageError]) -> list[ModelInput | ImageError]:
        return inputs

    def predict(self, x: Any) -> Any:
        if self.max_batch_size == 1:
            return next(self.classifier.classify_inputs([x]))
        return list(self.classifier.classify_inputs(x))

    def encode_response(self, output: Prediction | ImageError) -> Response:
        if isinstance(output, ImageError):
            return Response(json.dumps({"status": output.code.value}), status_code=422, media_type="application/json")
        predictions = [
            {"class_id": class_id, "label": self.class_names[class_id], "score": score}
            for class_id, score in zip(output.class_ids.tolist(), output.scores.tolist(), strict=True)
        ]
        return Response(
            json.dumps({"status": "ok", "predictions": predictions}, separators=(",", ":")),
            media_type="application/json",
        )


class ClassifyBody(Classify):
    """The image is the body itself, which FastAPI reads for what the annotation says."""

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> ModelInput | ImageError:
        return self.decode(request)


class ClassifyForm(Classify):
    """The image is a file of a form."""

    def decode_request(self, request: Request) -> ModelInput | ImageError:
        return self.decode(request["image"].file.read())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rival_litserve", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker's engine [default: 1]")
    parser.add_argument("--api-servers", type=int, default=1)
    parser.add_argument("--max-batch-size", type=int, default=1)
    parser.add_argument("--batch-timeout", type=float, default=0.0, help="seconds [default: 0]")
    parser.add_argument("--manager-queue", action="store_true", help="answers go over a queue instead of ZeroMQ")
    parser.add_argument("--form", action="store_true", help="the image is a file of a form")
    args = parser.parse_args()
    kind = ClassifyForm if args.form else ClassifyBody
    api = kind(args.model, args.threads, max_batch_size=args.max_batch_size, batch_timeout=args.batch_timeout)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=args.workers, fast_queue=not args.manager_queue
    )
    server.run(
        host="127.0.0.1",
        port=args.port,
        num_api_servers=args.api_servers,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
