# The peer of `lesionlab bench engines`: answers on stdout how many seconds it takes for what stdin asks.
# Arguments: slots (f32, channels last), encoder.onnx, heads.onnx, rows, columns, cores.
import sys
try:
    import resource, time
    from concurrent.futures import ThreadPoolExecutor
    import numpy as np
    import onnxruntime as ort
except ImportError as error:
    print("absent:", error, flush=True)
    sys.exit(0)

slots_file, encoder_file, heads_file = sys.argv[1:4]
rows, columns, cores = map(int, sys.argv[4:7])
slots = np.fromfile(slots_file, "<f4").reshape(-1, rows, columns, 3).transpose(0, 3, 1, 2).copy()


def sessions(threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    made = [ort.InferenceSession(f, options, providers=["CPUExecutionProvider"]) for f in (encoder_file, heads_file)]
    return made, [[i.name for i in s.get_inputs()] for s in made]


def encode(made, x):
    (encoder, _), (names, _) = made
    return encoder.run(None, {names[0]: x})


def fuse(made, before, here, after):
    (_, heads), (_, names) = made
    return heads.run(None, {n: np.concatenate(w, axis=1) for n, w in zip(names, zip(before, here, after))})


wide, narrow = sessions(cores), sessions(1)
pool = ThreadPoolExecutor(cores)


def batch(made, x):
    levels = encode(made, x)
    around = [np.concatenate([l[:1], l, l[-1:]]) for l in levels]
    return fuse(made, [a[:-2] for a in around], levels, [a[2:] for a in around])


def series_wide(n, at_once):
    for first in range(0, n, at_once):
        batch(wide, slots[np.arange(first, min(first + at_once, n)) % len(slots)])


def series_narrow(n):
    # One slot a core, as the product does.
    one = lambda i: batch(narrow, slots[i % len(slots)][None])
    list(pool.map(one, range(n)))


def timed(f, *args):
    start = time.perf_counter()
    f(*args)
    return time.perf_counter() - start


ways = [lambda n: series_wide(n, 1), lambda n: series_wide(n, 4), series_narrow]
best = None
batch(wide, slots[:1])
print(f"ready onnxruntime {'int8' if 'int8' in encoder_file else 'f32'}", flush=True)
for line in sys.stdin:
    what, *rest = line.split()
    if what == "batch":
        n = int(rest[0])
        print(timed(batch, wide, slots[:n]), flush=True)
    elif what == "series":
        n = int(rest[0])
        if best is None:
            # The fastest of its own ways, found once and not counted.
            for way in ways:
                way(8)
            best = min(ways, key=lambda way: timed(way, 32))
        print(timed(best, n), flush=True)
    elif what == "cpu":
        print(time.process_time(), flush=True)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
