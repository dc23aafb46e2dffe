"""Write the photographs that scikit-image and scikit-learn ship to a folder, for `restoration.py --photographs FOLDER`.

    pip install scikit-image scikit-learn
    python benchmarks/training/shipped_photographs.py FOLDER

They are 17 images of 300 to 1,400 pixels: 12 in the sub-folder train, 2 in valid and 3 in test. Grey ones become colour images of equal channels. Of a pair for two eyes only the left one
is written, because both show the same scene and could come to different splits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage
from skimage.color import gray2rgb
from skimage.io import imread, imsave
from sklearn.datasets import load_sample_images

COLOUR = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
TEST, VALID = ("astronaut", "coffee", "flower"), ("rocket", "camera")
GREY = ("brick.png", "camera.png", "clock_motion.png", "coins.png", "grass.png", "gravel.png", "moon.png")


def write_photographs(folder: Path) -> int:
    """Write all photographs as PNG files, and return their number."""
    shipped = Path(skimage.__file__).parent / "data"
    images = {Path(name).stem: imread(shipped / name)[..., :3] for name in COLOUR}
    images |= {Path(name).stem: gray2rgb(imread(shipped / name)) for name in GREY}
    samples = load_sample_images()
    images |= {Path(name).stem: image for name, image in zip(samples.filenames, samples.images, strict=True)}
    for name, image in images.items():
        split = folder / ("test" if name in TEST else "valid" if name in VALID else "train")
        split.mkdir(parents=True, exist_ok=True)
        imsave(split / f"{name}.png", np.asarray(image, dtype=np.uint8), check_contrast=False)
    return len(images)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(f"{write_photographs(parser.parse_args().folder)} photographs")
