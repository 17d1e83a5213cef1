"""The key that somebody meant who wrote one that does not exist."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CUTOFF = 0.8

# What timm, torchvision, Ultralytics, Keras, Hugging Face, PaddleClas and mmpretrain call our keys.
_WORDS: Mapping[str, str] = {
    "learning_rate": "lr, base lr, init lr, lr0, max lr, peak lr, eta",
    "min_learning_rate": "min lr, lrf, eta min, end lr, final lr",
    "batch_size": "bs, batch, train batch size, per device batch size, per device train batch size, mini batch",
    "accumulate_steps": "grad accum steps, accum iter, gradient accumulation steps, accumulate, update freq",
    "grad_checkpointing": "gradient checkpointing, activation checkpointing, checkpointing, recompute",
    "epochs": "epoch, num epochs, n epochs, max epochs, num train epochs, epochs iters",
    "epochs_iters": "epochs, epoch, num epochs, iters",
    "optimizer": "opt, optim",
    "schedule": "scheduler, sched, lr scheduler, lr scheduler type, lr schedule, lr policy",
    "warmup_epochs": "warmup, warmup epoch, warmup steps, warmup ratio",
    "weight_decay": "wd, l2, decay",
    "clip_grad_norm": "clip grad, clip, max grad norm, grad clip, gradient clip val",
    "label_smoothing": "smoothing, ls, label smoothing factor",
    "drop_path": "drop path rate, stochastic depth, dropout",
    "ema_decay": "ema, model ema, model ema decay",
    "amp": "mixed precision, fp16, bf16, half, use amp",
    "precision": "dtype, fp16, bf16, half, amp",
    "crop_scale": "scale, random resized crop, rrc scale",
    "flip": "hflip, fliplr, horizontal flip",
    "vertical_flip": "vflip, flipud, flip vertical",
    "color_jitter": "colour jitter, jitter, color, brightness, contrast, saturation",
    "rand_augment": "aa, auto augment, randaugment, augment",
    "random_erasing": "reprob, erasing, random erase, re prob, cutout",
    "class_weights": "class weight, weighted loss, loss weights",
    "focal_gamma": "focal, focal loss, gamma, loss gamma",
    "logit_adjustment": "logit adjust, logit adjusted loss, balanced softmax, tau",
    "sampling": "sampler, weighted sampler, balanced sampling",
    "teacher": "teacher model, kd teacher, distill, distillation",
    "teacher_weight": "distill weight, kd weight, kd alpha, distillation alpha",
    "teacher_temperature": "distill temperature, kd temperature, distillation tau",
    "image_size": "img size, imgsz, imsize, input size, size, resolution, crop size, train size",
    "early_stop": "patience, early stopping, early stopping patience",
    "seed": "random seed, random state, manual seed",
    "log_interval": "log freq, print freq, logging steps, log every n steps, log iter",
    "eval_interval": "val interval, eval freq, validate every, check val every n epoch",
    "eval_steps": "val check interval, evaluation steps, val steps, val every n steps",
    "save_interval": "save freq, save period, checkpoint interval, save every",
    "keep_checkpoints": "checkpoint hist, save total limit, max keep ckpts, max to keep",
    "freeze": "freeze backbone, linear probe, freeze layers, frozen",
    "weights": "checkpoint, ckpt, initial checkpoint, finetune, weight path, pretrain weight path, pretrained weights, "
    "init weights, load from, resume, weight",
    "pretrained": "use pretrained, pretrain, imagenet",
    "model": "arch, architecture, backbone, network, net, model name, model dir, model path, model folder, weights, "
    "checkpoint, weight path",
    "name": "model, arch, architecture, network, model name",
    "data": "dataset, data dir, dataset dir, data path, data root, train dir, root, path, input, images, folder",
    "input": "images, image, source, data, data dir, input dir, input path, infer imgs, image dir, files, path, src, "
    "folder, uri",
    "images": "data, dataset, calibration data, calib data, input",
    "output": "out, out dir, output dir, output path, save dir, save path, project, work dir, dest, destination, dst, "
    "store, target, log dir, results",
    "store": "input, output, labels, path",
    "top_k": "k, topk, num labels, num predictions, top n",
    "num_workers": "workers, jobs, n jobs, num procs, processes, num processes, num threads, threads, cpus, num "
    "cpus, nproc, concurrency",
    "cores_per_worker": "cpus per worker, threads per worker",
    "loader_processes": "data workers, dataloader workers, loader workers, dataloader num workers",
    "cpus_per_worker": "cpus, num cpus, threads per worker",
    "num_gpus": "gpus, n gpus, ngpu, gpu count",
    "device": "gpu, cuda, gpu id, gpu ids, devices, use gpu, accelerator, cpu",
    "engine": "backend, runtime, provider",
    "limit": "max images, num images, head, first, max samples",
    "max_error_rate": "error rate, max errors, max error share, tolerance",
    "fail_if_empty": "error if empty, strict, fail on empty",
    "save_images": "samples, num samples, visualize, vis, draw, annotate",
    "export": "export format, format, output format",
    "format": "to, export format, type",
    "int8": "quantize, quant, quantise, quantization",
    "min_agreement": "agreement, accuracy, tolerance, atol",
    "dry_run": "plan, preview, simulate, no write",
    "train_percent": "train, train ratio, train size, train share, train split",
    "val_percent": "val, val ratio, val size, val share, val split, validation, validation percent, valid percent",
    "test_percent": "test, test ratio, test size, test share, test split",
    "group_by": "group, groups, group regex",
    "delimiter": "sep, separator, delim",
    "split": "subset, partition, set",
    "num_classes": "classes, n classes, num labels, class num, nc",
    "labels": "label file, classes, class names, label map, names, label txt, class file",
    "random": "random weights, no pretrained, scratch, from scratch",
    "scratch": "from scratch, no pretrained, random, random init",
    "port": "http port, listen port",
    "host": "bind, address, ip, listen, listen address",
    "num_replicas": "replicas, workers, num workers",
    "endpoint_url": "endpoint, s3 endpoint, aws endpoint url, minio, minio url, base url",
    "anonymous": "anon, no sign request, unsigned, skip signature",
    "requester_pays": "request payer, payer",
    "kms_key": "sse kms key id, kms key id, sse kms, kms",
    "fetch_timeout_s": "timeout, read timeout, download timeout",
    "decode_timeout_s": "timeout, decode timeout",
    "max_image_bytes": "max bytes, max file size, max size",
    "max_image_pixels": "max pixels, pixel limit",
    "config": "cfg, conf, yaml, config file, file",
    "set": "override, overrides, opt, param, key",
    "help": "usage",
}


def meant_key(word: str, known: Iterable[str]) -> str | None:
    """The one of the known keys that a word most likely means: written another way, called otherwise, or mistyped.

    >>> meant_key("batchSize", ["batch_size", "epochs"]), meant_key("lr", ["flip", "learning_rate"])
    ('batch_size', 'learning_rate')
    """
    by_form = {letters_and_digits(key): key for key in known}
    form = letters_and_digits(word)
    if form in by_form:
        return by_form[form]
    for key in by_form.values():
        if form in map(letters_and_digits, _WORDS.get(key, "").split(",")):
            return key
    near = difflib.get_close_matches(form, by_form, n=1, cutoff=_CUTOFF)
    return by_form[near[0]] if near else None


def letters_and_digits(word: str) -> str:
    """A word without what people write in different ways: case, dashes, underscores, dots and spaces.

    >>> letters_and_digits("Batch_Size")
    'batchsize'
    """
    return "".join(character for character in word.lower() if character.isalnum())
