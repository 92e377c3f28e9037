"""Makes the built-in demonstration catalogue: products with a title, a description, a picture and a category.

The categories come in families of five that share words, materials and outlines, so that neighbours are
confused; a title often leaves the product's name out, and the description gives it away only by weaker cues.
A third of the categories are so rare that a small training split misses some of them: these are the "none" items.
A few products carry a neighbour's label, as in any real catalogue. Everything is invented.
"""

from __future__ import annotations

import colorsys
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

CATALOGUE_VERSION = 1
"""Raised whenever the same seed and size would give other bytes, so that an older catalogue is remade."""

LABEL_NOISE_FRACTION = 0.04
"""The share of products, outside the rarest categories, that are filed under a neighbouring category."""

_TABLE, _IMAGES, _MARK = "products.parquet", "images", "catalogue.json"
_IMAGE_SIZE = 64

# A family: its name, the nouns that fit each of its categories, its materials; a line of shared cues.
# A category: its name and its own nouns; a line of cues of its own. A "*" marks the rare ones.
_VOCABULARY = """
# Footwear | shoe, pair, design | mesh, suede, nubuck, recycled knit, leather
    a padded collar; a snug heel; a removable insole; room at the toes; a grippy rubber sole; reinforced stitching
Running shoes | running shoe, road trainer, jogging shoe
    a springy midsole for long road miles; cushioning tuned for tarmac; a light upper for race day; a lively toe-off
Trail shoes | trail shoe, trail runner, fell shoe
    deep lugs that bite into mud; a rock plate under the forefoot; a quick-draining upper; hold on wet roots
Walking boots | walking boot, hiking boot, hill boot
    firm ankle support under a load; a waterproof lining; hooks for tight lacing; a stiff shank for rocky paths
*Sandals | sandal, slide, strappy sandal
    open sides for hot days; adjustable straps; a contoured footbed for bare feet; a quick dry after the beach
*Slippers | slipper, house shoe, mule
    a fleecy lining for cold floors; a soft sole for indoors; an easy step-in back; warmth by the fire
# Lighting | lamp, light, fitting | brushed steel, brass, linen, opal glass, painted steel
    a warm white glow; a dimmable bulb; a fabric-covered cable; an even, glare-free light; an in-line switch
Desk lamps | desk lamp, task lamp, reading light
    a jointed arm that reaches over a page; a weighted base for a worktop; a focused beam for close work; a USB port
Floor lamps | floor lamp, standing lamp, uplighter
    a tall stem beside the sofa; a foot pedal switch; a broad drum shade at standing height; a tripod stand
Pendant lights | pendant light, hanging lamp, ceiling pendant
    a cord that shortens over a table; a ceiling rose to match; a dome shade seen from below; a row above an island
Wall lights | wall light, sconce, wall lamp
    a flat backplate with two screws; light thrown up and down a wall; a slim depth for hallways; a bedside bracket
*Lanterns | lantern, camping light, storm lamp
    a carrying handle; a rechargeable battery for a night outdoors; a wind-proof chimney; a hook for the porch
# Drinkware | cup, vessel, piece | stoneware, porcelain, clear glass, borosilicate, stainless steel
    a smooth rim; a dishwasher-safe finish; a generous fill; a comfortable hold; a base that leaves no rings
Mugs | mug, coffee mug, beaker
    a sturdy looped handle; a thick wall that keeps coffee hot; room for a big morning brew; a glazed inside
Tumblers | tumbler, highball, juice glass
    straight sides that stack; a heavy base for ice; a tall shape for long drinks; a cut pattern for whisky
Water bottles | water bottle, flask, drinks bottle
    a leak-proof screw lid; double walls for cold water all day; a loop to clip to a bag; a sports cap
Wine glasses | wine glass, goblet, stemmed glass
    a long slender stem; a bowl that gathers the bouquet; a fine rim for red or white; room to swirl
*Teacups | teacup, tea cup, cup and saucer
    a matching saucer; a dainty handle for afternoon tea; a thin translucent wall; a gold line at the edge
# Cookware | pan, pot, dish | cast iron, carbon steel, aluminium, enamelled steel, copper
    an even heat over the whole base; a stay-cool handle; a fit for every hob, induction too; an oven-safe build
Frying pans | frying pan, skillet, saute pan
    low sloping sides for turning eggs; a non-stick face for pancakes; a crisp sear on steak; a wide flat base
Saucepans | saucepan, milk pan, sauce pot
    a pouring lip on both sides; a glass lid with a steam vent; measures marked inside; a gentle simmer for sauces
Casserole dishes | casserole, Dutch oven, stew pot
    a heavy lid that bastes the stew; two loop handles for the table; hours of slow braising; a deep pot for soups
*Woks | wok, stir-fry pan, round-bottomed pan
    high curved walls for tossing; a fierce heat at the centre; a long handle for stir-frying; a thin, quick metal
*Roasting tins | roasting tin, roaster, oven tray
    a rack that lifts the joint; corners that gather gravy; room for a Sunday chicken; upright sides for potatoes
# Bags | bag, carrier, piece | waxed canvas, nylon, cotton twill, full-grain leather, ripstop
    a smooth zip; an inner pocket for keys; a water-resistant base; reinforced seams; a lining that wipes clean
Backpacks | backpack, rucksack, daypack
    two padded shoulder straps; a ventilated back panel; a chest strap for long walks; a sleeve for a hydration bladder
Tote bags | tote, shopper, market bag
    long handles for the shoulder; an open top for groceries; a fold-flat shape; a wide gusset for books
Messenger bags | messenger bag, satchel, courier bag
    a single strap across the body; a front flap with buckles; a padded laptop sleeve; a stabilising strap for cycling
Holdalls | holdall, duffel, weekender
    a wide mouth for packing; a shoe compartment at one end; a size that fits the overhead locker; room for a weekend
*Wash bags | wash bag, toiletry bag, dopp kit
    a hook for the bathroom door; a slot for a toothbrush; a waterproof lining for spills; space for travel bottles
# Outerwear | jacket, layer, coat | recycled polyester, ripstop nylon, waxed cotton, wool blend, softshell
    zipped hand pockets; an adjustable hem; a high collar; a regular fit over a jumper; a two-way front zip
Rain jackets | rain jacket, waterproof, shell
    taped seams that keep out a downpour; a peaked hood; underarm vents; a thin shell that packs into its pocket
Down jackets | down jacket, puffer, insulated jacket
    baffles filled with goose down; warmth for almost no weight; a quilted shell; a stuff sack for the summit
Fleeces | fleece, fleece jacket, pile pullover
    a brushed pile that dries quickly; a cosy mid layer; a half zip at the neck; a soft knit that breathes
*Gilets | gilet, body warmer, vest
    a warm core with free arms; wide armholes; a sleeveless cut; a light quilting for spring mornings
*Parkas | parka, winter coat, long coat
    a thigh-length cut against the wind; a trimmed hood for deep winter; storm cuffs; a heavy lining for the coldest days
# Seating | chair, seat, piece | solid oak, beech, boucle, velvet, powder-coated steel
    a comfortable height; a sturdy frame; a wipe-clean seat; felt pads under the feet; simple assembly in minutes
Dining chairs | dining chair, side chair, kitchen chair
    a curved back for long dinners; a shape that tucks under the table; a set of two; a slim spindle back
Armchairs | armchair, lounge chair, easy chair
    deep cushions to sink into; broad padded arms; a high back for reading; a feather-filled seat
Office chairs | office chair, desk chair, task chair
    adjustable lumbar support; five smooth castors; a gas lift; a tilt lock for hours at a screen
Bar stools | bar stool, counter stool, high stool
    a footrest ring; a perch at counter height; a swivel top; a low back for the breakfast bar
*Benches | bench, hall bench, settle
    a long seat for three; a shelf for shoes below; a place to sit in the hallway; a plank top without a back
# Audio | speaker, set, device | matt plastic, anodised aluminium, woven fabric, walnut veneer, silicone
    a full, balanced sound; a quick Bluetooth pairing; a clear treble; deep bass; a USB-C charge; an app with presets
Headphones | over-ear headphone, headset, noise-cancelling headphone
    soft cushions around the ears; a folding headband; quiet on a noisy train; thirty hours between charges
Earphones | earbud set, earphone, in-ear set
    three sizes of silicone tip; a charging case for the pocket; a secure fit for the gym; a tiny, light bud
Portable speakers | portable speaker, Bluetooth speaker, travel speaker
    a splash-proof body for the pool; sound that fills a garden; a strap to hang it up; twelve hours of music
*Soundbars | soundbar, TV speaker, sound base
    dialogue you can follow from the sofa; an HDMI link to the television; a low bar below the screen; a subwoofer
*Microphones | microphone, condenser mic, podcast mic
    a cardioid pattern for voices; a shock mount and pop filter; a desk stand for streaming; a mute button
# Bedding | textile, set, cover | washed linen, organic cotton, percale, lambswool, bamboo blend
    a soft handle; colours that stay fresh in the wash; neatly piped edges; a breathable weave; a 40 degree wash
Duvet covers | duvet cover, bed set, quilt cover
    two pillowcases included; a button closure at the foot; a crisp bed in king or double; ties inside the corners
Throws | throw, blanket, bedspread
    a fringe along both ends; an extra layer for the sofa arm; a warm wrap for evenings; a herringbone weave
Cushions | cushion, scatter cushion, accent cushion
    a hidden zip and a feather pad; a bright accent on the sofa; a square of 45 centimetres; a contrasting back
Bath towels | bath towel, bath sheet, hand towel
    a thick absorbent loop; a hanging tab; a spa feel after the shower; 600 grams of cotton to the metre
*Pillows | pillow, side-sleeper pillow, neck pillow
    support for the neck at night; a medium-firm filling; a hollow-fibre core; a quilted protector for sleepers
# Storage | unit, cabinet, piece | oak veneer, ash, walnut, lacquered board, rattan
    plenty of space for a small room; a fixing kit for the wall; a clean, plain front; rounded edges; level feet
Bookcases | bookcase, shelving unit, bookshelf
    five adjustable shelves; an open back for paperbacks; a tall, narrow frame; a ladder shape against the wall
Chests of drawers | chest of drawers, dresser, tallboy
    six drawers on soft-close runners; folded jumpers kept in order; a shallow top drawer for socks; dovetail joints
Sideboards | sideboard, buffet, credenza
    sliding doors over crockery; a long low body for the dining room; a cable outlet at the back; a serving top
*Baskets | basket, hamper, storage bin
    two woven handles; a place for laundry or toys; a removable cotton liner; a round shape with a lid
*Coat racks | coat rack, hall stand, hat stand
    eight pegs for coats and hats; a tray for umbrellas; a slim stand by the front door; a rail with hooks
# Stationery | book, set, piece | cloth, vegan leather, kraft board, brass, recycled paper
    an elastic closure; a ribbon marker; a pocket at the back; a lay-flat binding; a gift box; rounded corners
Notebooks | notebook, journal, jotter
    ruled pages for daily notes; 192 numbered pages; a dotted grid; a table of contents to fill in
Planners | planner, diary, agenda
    a week on two pages; monthly tabs and public holidays; space for goals and habits; undated months to start any time
Sketchbooks | sketchbook, drawing pad, art journal
    heavy paper that takes a wash; a rough tooth for charcoal; perforated sheets; blank pages that do not bleed
*Fountain pens | fountain pen, pen, writing instrument
    a fine steel nib; a converter for bottled ink; a screw cap; a barrel balanced for long letters
*Pencil cases | pencil case, pen roll, pen pouch
    loops for single pencils; a zipped tube for school; room for brushes and erasers; a roll-up shape with a tie
# Garden | tool, piece, garden essential | ash wood, galvanised steel, terracotta, stainless steel, recycled plastic
    a finish that shrugs off the rain; a favourite for small plots; a rust-free surface; a ten-year life outdoors
Plant pots | plant pot, planter, cachepot
    a drainage hole and saucer; a frost-proof wall; room for roots to spread; a home for herbs on the sill
Hand trowels | trowel, hand trowel, planting scoop
    a pointed blade for bulbs; depth marks along the blade; a short handle for close planting; a forged neck
Watering cans | watering can, indoor can, sprinkling can
    a long spout that reaches the back row; a brass rose for seedlings; five litres in one trip; a balanced pour
Pruners | pruner, bypass pruner, pruning shear
    a bypass blade for clean cuts; a spring and a safety catch; branches up to 20 millimetres; a sap groove
*Garden gloves | garden glove, work glove, thorn-proof glove
    long cuffs against roses; a dipped palm that grips; a snug wrist that keeps soil out; nimble fingertips
"""

_BRANDS = (
    "Halden Morrow Castell Brightwater Ostra Fenwick Linde Northgate Arbour Kestrel Tamsin Vale Corvid Ellery "
    "Solvang Marlow Pask Ridgeway Juniper Tarn Bellamy Oakhurst Senna Wexford"
).split()
_RANGES = (
    "Tarn Arden Solis Mira Strand Alto Cove Ember Lowell Finch Harbour Nova Terra Quill Juno Sable Orchard Wren "
    "Summit Delta Isla Bowery Pine Atlas"
).split()
_ADJECTIVES = (
    "classic modern everyday lightweight compact premium essential timeless versatile durable elegant simple "
    "hand-finished signature practical relaxed refined dependable"
).split()
# Name -> hue in turns, saturation and value in [0, 1].
_COLOURS = {
    "slate": (0.58, 0.25, 0.45),
    "black": (0.00, 0.00, 0.12),
    "sand": (0.11, 0.30, 0.85),
    "forest green": (0.38, 0.60, 0.40),
    "navy": (0.63, 0.70, 0.35),
    "rust": (0.05, 0.75, 0.65),
    "mustard": (0.13, 0.80, 0.80),
    "sky blue": (0.55, 0.40, 0.90),
    "burgundy": (0.96, 0.70, 0.42),
    "white": (0.00, 0.00, 0.97),
    "sage": (0.27, 0.25, 0.65),
    "blush": (0.98, 0.25, 0.92),
}
_FILLERS = (
    "Arrives in recyclable packaging.",
    "Covered by a two-year guarantee.",
    "Free returns within 30 days.",
    "Designed in our own studio and made in small batches.",
    "A dependable choice for every day.",
    "Also available in other colours.",
    "An easy present for a friend.",
    "Our customers rate it highly for value.",
)


@dataclass(frozen=True)
class _Category:
    name: str
    nouns: tuple[str, ...]
    cues: tuple[str, ...]
    rare: bool


@dataclass(frozen=True)
class _Family:
    nouns: tuple[str, ...]
    materials: tuple[str, ...]
    cues: tuple[str, ...]
    categories: tuple[_Category, ...]


def make_catalogue(directory: Path, n_products: int = 3200, seed: int = 0) -> Path:
    """Makes the catalogue in `directory`, unless the same one is already there, complete.

    It is built in a directory aside and renamed, so that what an interruption leaves is never taken for a
    catalogue. The same arguments give the same bytes.

    Args:
        directory: Where the table and its `images/` go. An older or incomplete catalogue there is replaced.
        n_products: How many products, at least 160.
        seed: Of every random choice.

    Returns:
        The path of the table, `products.parquet`, with the string columns `id`, `title`, `description`,
        `category` (the label) and `image` (a path relative to the table).

    Raises:
        ValueError: If `n_products` is too small for two products a category, or `seed` is negative.
        FileExistsError: If `directory` holds anything that is not part of a catalogue.
    """
    families = _parse(_VOCABULARY)
    counts = _class_counts(families, n_products)
    if seed < 0:
        raise ValueError(f"`seed` must be 0 or above, got {seed}")
    request = {"version": CATALOGUE_VERSION, "n_products": n_products, "seed": seed}
    directory = Path(directory).absolute()
    if _is_complete(directory, request):
        return directory / _TABLE
    foreign = _foreign_names(directory)
    if foreign:
        raise FileExistsError(
            f"`{directory}` must be empty or hold only a demonstration catalogue, but it holds "
            f"{', '.join(foreign)}; choose another directory"
        )
    aside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / _IMAGES).mkdir(parents=True)
    try:
        _write(aside, families, counts, request)
        shutil.rmtree(directory, ignore_errors=True)
        aside.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return directory / _TABLE


def _parse(text: str) -> tuple[_Family, ...]:
    """Reads the vocabulary: pairs of a heading and a line of cues."""
    lines = [line.strip() for line in text.strip().splitlines()]
    families: list[_Family] = []
    for heading, cue_line in zip(lines[::2], lines[1::2], strict=True):
        name, *lists = (part.strip() for part in heading.split("|"))
        words = [tuple(part.split(", ")) for part in lists]
        cues = tuple(cue_line.split("; "))
        if name.startswith("#"):
            families.append(_Family(words[0], words[1], cues, ()))
        else:
            category = _Category(name.lstrip("*"), words[0], cues, name.startswith("*"))
            last = families[-1]
            families[-1] = _Family(last.nouns, last.materials, last.cues, (*last.categories, category))
    return tuple(families)


def _class_counts(families: tuple[_Family, ...], n_products: int) -> dict[tuple[int, int], int]:
    """Products of each category, by its family's and its own index: two to six of a rare one, a long tail of the rest."""
    keys = [(f, c) for f, family in enumerate(families) for c in range(len(family.categories))]
    rare = [key for key in keys if families[key[0]].categories[key[1]].rare]
    usual = [key for key in keys if key not in rare]
    counts = {key: 2 + place % 5 for place, key in enumerate(rare)}
    spare = n_products - sum(counts.values()) - 2 * len(usual)
    if spare < 0:
        raise ValueError(f"`n_products` must be at least {n_products - spare}, got {n_products}")
    # A stride coprime to the number of categories spreads common and less common ones over the families.
    order = [usual[(17 * place) % len(usual)] for place in range(len(usual))]
    weights = (np.arange(len(order)) + 4.0) ** -0.9
    shares = np.floor(spare * weights / weights.sum()).astype(int)
    shares[0] += spare - shares.sum()
    return counts | {key: 2 + int(share) for key, share in zip(order, shares, strict=True)}


def _pick[T](rng: np.random.Generator, options: tuple[T, ...] | list[T]) -> T:
    return options[int(rng.integers(len(options)))]
