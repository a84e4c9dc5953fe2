"""Which image goes with which mask: the layouts in which people keep both."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lossbench.data.samples import POOL
from lossbench.data.sources import listing
from lossbench.errors import UserError, brief

IMAGES = ("images", "image", "imgs", "img", "jpegimages", "input", "inputs", "leftimg8bit")
MASKS = (
    "masks", "mask", "labels", "label", "lbl", "gt", "gts", "groundtruth", "annotations", "annotation",
    "anns", "ann", "annots", "annot", "segmentationclass", "segmentations", "segmentation", "seg", "segs",
    "targets", "target", "gtfine", "1stmanual",
)  # fmt: skip
"""Names of folders, in lower case, without '_', '-' and blanks."""
MASK_ENDINGS = (*MASKS, "l", "gtfinelabelids", "gtfinelabeltrainids", "manual1", "1stmanual")
"""What a mask's name may end in after '_' or '-'; the last are CamVid's, Cityscapes' and DRIVE's."""
DRAWN = "1stmanual"
"""DRIVE's masks: what lies in ``mask/`` beside them is the camera's field of view."""
OF_CITYSCAPES = "_gtFine_"
IN_CITYSCAPES = ("_gtFine_labelIds", "_gtFine_labelTrainIds")
"""Masks, first choice first, among Cityscapes' files of an image; others are for the eye, or of instances."""
IMAGE_ENDINGS = (*IMAGES, "sat", "leftimg8bit", "training", "test")
LAYOUTS = (
    "images/ and masks/ (perhaps each under train/, val/, test/, or with these under each), train/ beside "
    "trainannot/ or train_masks/, a_mask.png beside a.png, JPEGImages/ and SegmentationClass/, Cityscapes' "
    "leftImg8bit/ and gtFine/, or DRIVE's training/ with images/ and 1st_manual/"
)
"""What is read; names of folders may be any of IMAGES and MASKS."""

Pairs = dict[Path, Path]


def plain(name: str) -> str:
    """Compare names of folders as people write them."""
    return "".join(one for one in name.lower() if one not in "_- ")


def mask_pairs(root: Path) -> dict[str, Pairs]:
    """Find a folder's images and masks.

    Returns:
        split (or POOL) → image → mask.

    Raises:
        UserError: naming the layouts, or the file that has no partner.

    """
    if (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        return _voc(root)
    folders = [one for one in listing.entries(root) if one.is_dir()]
    named = [_split_of(one) for one in folders]
    if any(kind == "mask" for _, kind in named) and any(split for split, _ in named):
        return _side_by_side(root, folders)
    if sides := listing.split_folders(root):
        return {split: _pairs(folder) for split, folder in sides.items()}
    images, masks = _both(root, folders)
    if images is None or masks is None:
        return {POOL: _pairs(root)}
    within, also = _sides(images), _sides(masks)
    if not (within or also):
        return {POOL: _pairs(root)}
    for split in {*within, *also}:
        if split not in within or split not in also:
            raise UserError(f"{root}: the {split} split is in one of {images.name}/ and {masks.name}/ only")
    if "train" not in within:
        raise UserError(f"{images}: no train folder beside {', '.join(one.name for one in within.values())}")
    return {split: _in_folders(folder, also[split]) for split, folder in within.items()}


def looks_like_masks(root: Path) -> bool:
    """Whether a folder's names speak of masks, well or badly laid out."""
    below = [one for one in listing.entries(root) if one.is_dir()]
    inner = [two for one in below if _split_of(one)[0] for two in listing.entries(one) if two.is_dir()]
    for some in (below, inner):
        kinds = {kind for one in some for kind in [_split_of(one)[1]]}
        images = "image" in kinds or any(_split_of(one)[0] for one in some)
        if "mask" in kinds and images:
            return True
    flat = [root, *(one for one in below if _split_of(one)[0])]
    return any(suffixed([file for file in listing.entries(one) if file.is_file()]) for one in flat)


def _split_of(folder: Path) -> tuple[str | None, str | None]:
    """Read a folder's name: (split, "image" or "mask"), either None where it does not say."""
    name = plain(folder.name)
    if name in MASKS:
        return None, "mask"
    if name in IMAGES:
        return None, "image"
    for side, split in listing.SIDES.items():
        for rest in (name.removeprefix(side), name.removesuffix(side)):
            if rest == "":
                return split, "image"
            if rest != name and rest in (*MASKS, *IMAGES):
                return split, "mask" if rest in MASKS else "image"
    return None, None


def _side_by_side(root: Path, folders: Sequence[Path]) -> dict[str, Pairs]:
    """``train``, ``trainannot``, ``val``, ``valannot``: a folder of each kind per split."""
    found: dict[str, dict[str, Path]] = {}
    for one in folders:
        split, kind = _split_of(one)
        if split is None or kind is None:
            raise UserError(f"{one}: beside folders of images and of masks per split; expected {LAYOUTS}")
        twin = found.setdefault(split, {}).setdefault(kind, one)
        if twin != one:
            raise UserError(f"{one} and {twin} are both {kind}s of the {split} split; keep one")
    for split, both in found.items():
        for kind, other in (("mask", "image"), ("image", "mask")):
            if kind not in both:
                raise UserError(f"{both[other]}: no folder of {kind}s of the {split} split beside it")
    if "train" not in found:
        raise UserError(f"{root}: no train folder beside {', '.join(one.name for one in folders)}")
    return {split: _in_folders(both["image"], both["mask"]) for split, both in found.items()}


def _both(folder: Path, folders: Sequence[Path]) -> tuple[Path | None, Path | None]:
    """The folder of images and the folder of masks among ``folders``."""
    chosen: list[Path | None] = []
    for kind in ("image", "mask"):
        some = [one for one in folders if _split_of(one) == (None, kind)]
        some = [one for one in some if plain(one.name) == DRAWN] or some
        if len(some) > 1:
            raise UserError(
                f"{folder}: both {some[0].name}/ and {some[1].name}/ may hold the {kind}s; keep one there"
            )
        chosen.append(some[0] if some else None)
    return chosen[0], chosen[1]


def _sides(folder: Path) -> dict[str, Path]:
    """Splits within a folder of images, or of masks."""
    below = [one for one in listing.entries(folder) if one.is_dir()]
    return dict(listing.split_folders(folder) or {}) if below else {}


def _pairs(folder: Path) -> Pairs:
    """Pairs of one split: two folders, or files side by side."""
    found = listing.entries(folder)
    images, masks = _both(folder, [one for one in found if one.is_dir()])
    files = [one for one in found if not one.is_dir()]
    if images is None and masks is None and suffixed(files):
        if folders := [one for one in found if one.is_dir()]:
            raise UserError(f"{folders[0]}: a folder beside images and masks; expected {LAYOUTS}")
        return _beside(listing.files_in(folder, "the folder"))
    if images is None:
        raise UserError(_missing(folder, "images"))
    if masks is None:
        raise UserError(_missing(folder, "masks"))
    return _in_folders(images, masks)


def _in_folders(images: Path, masks: Path) -> Pairs:
    """Pair the files of two folders; of folders of folders (a city or a patient each), those of one name."""
    left, right = _parts(images), _parts(masks)
    if not left or not right:
        return paired(_files(images), _files(masks))
    for some, others, where in ((left, right, masks), (right, left, images)):
        if lone := next((name for name in some if name not in others), None):
            raise UserError(f"{some[lone]}: no folder of this name in {where}")
    pairs = (paired(_files(one), _files(right[name])) for name, one in left.items())
    return {image: mask for some in pairs for image, mask in some.items()}


def _parts(folder: Path) -> dict[str, Path]:
    """Name → folder, where there is nothing but folders."""
    found = listing.entries(folder)
    return {listing.nfc(one.name): one for one in found} if all(one.is_dir() for one in found) else {}


def _missing(folder: Path, name: str) -> str:
    return f"{folder / name}: no such folder; expected images/ and masks/ in {folder}; read are {LAYOUTS}"


def _files(folder: Path) -> list[Path]:
    files = listing.files_in(folder, f"'{folder.name}'")
    ending = next((one for one in IN_CITYSCAPES if any(file.stem.endswith(one) for file in files)), None)
    if ending is None:
        return files
    return [one for one in files if one.stem.endswith(ending) or OF_CITYSCAPES not in one.stem]


def suffixed(files: Sequence[Path]) -> bool:
    """Whether a file's name is another's with what masks end in."""
    stems = {listing.nfc(one.stem) for one in files}
    return any(without_ending(stem, MASK_ENDINGS) in stems - {stem} for stem in stems)


def _beside(files: Sequence[Path]) -> Pairs:
    stems = {listing.nfc(one.stem) for one in files}
    masks = [
        one
        for one in files
        if without_ending(listing.nfc(one.stem), MASK_ENDINGS) in stems - {listing.nfc(one.stem)}
    ]
    return paired([one for one in files if one not in masks], masks)


def without_ending(stem: str, endings: Sequence[str] = MASK_ENDINGS) -> str:
    """Cut off what tells a mask's name from its image's."""
    for place in (place for place, one in enumerate(stem) if one in "_-" and place):
        if plain(stem[place:]) in endings:
            return stem[:place]
    return stem


def paired(images: Sequence[Path], masks: Sequence[Path]) -> Pairs:
    """Pair by name without its ending, in the images' order; else by name without ``_mask`` and its like.

    Raises:
        UserError: naming the file that has no partner.

    """
    left, right = listing.by_stem(images), listing.by_stem(masks)
    if not left.keys() & right.keys():
        left, right = _by_stemwithout_ending(left, IMAGE_ENDINGS), _by_stemwithout_ending(right, MASK_ENDINGS)
    for stem, image in left.items():
        if stem not in right:
            raise UserError(f"{image}: no mask of this name in {masks[0].parent}")
    for stem, mask in right.items():
        if stem not in left:
            raise UserError(f"{mask}: no image of this name in {images[0].parent}")
    return {image: right[stem] for stem, image in left.items()}


def _by_stemwithout_ending(files: Mapping[str, Path], endings: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for stem, file in files.items():
        twin = found.setdefault(without_ending(stem, endings), file)
        if twin != file:
            raise UserError(f"{file} and {twin.name} have one name but for its ending; keep one")
    return found


def _voc(root: Path) -> dict[str, Pairs]:
    """Pascal VOC: the lists in ImageSets/Segmentation say which images have masks."""
    images = listing.by_stem(_files(root / "JPEGImages"))
    masks = listing.by_stem(_files(root / "SegmentationClass"))
    lists = root / "ImageSets" / "Segmentation"
    found: dict[str, Pairs] = {}
    for split, file in listing.split_lists(lists).items():
        found[split] = {}
        for row, line in enumerate(listing.read_text(file).splitlines(), 1):
            if stem := listing.nfc(line.strip()):
                if stem not in images or stem not in masks:
                    missing = "SegmentationClass" if stem in images else "JPEGImages"
                    raise UserError(f"{file}, row {row}: no file of the name {brief(stem)} in {missing}")
                found[split][images[stem]] = masks[stem]
        if not found[split]:
            raise UserError(f"{file}: empty; expected the name of an image per row")
    if not found:
        return {POOL: paired(list(images.values()), list(masks.values()))}
    if "train" not in found:
        raise UserError(f"{lists}: no train.txt beside {', '.join(found)}")
    return found
