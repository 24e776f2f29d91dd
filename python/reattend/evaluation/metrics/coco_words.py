"""The words that CHAIR knows: the 80 classes of COCO, and what captions call them.

Facts of the public protocol (Lu et al., Neural Baby Talk, CVPR 2018; Rohrbach et al., Object
Hallucination in Image Captioning, EMNLP 2018): which words stand for which class. Spellings of the
public list that are no words ('phon', 'solider') are kept, since scores depend on them.
"""

from __future__ import annotations

from functools import cache

from reattend.evaluation.metrics.vocabulary import Vocabulary

_CLASSES = """
person: adult baby baker bicyclist biker boy bride buyer caller camper chef child cop cowboy
  coworker doctor drinker driver father female foreigner gentleman girl grandchild groom guy hunter
  kid lady male man mother offender officer passenger patient people pitcher player policeman
  politician rider serviceman shopper sister skateboarder skater skier snowboarder soldier solider
  student teenager thief traveler trespasser villager walker woman worker children
bicycle: bike minibike trike unicycle
car: automobile cab coupe hatchback jeep limo minivan sedan suv taxi taxicab van
motorcycle: moped motorbike motor_bike motor_cycle scooter
airplane: air_plane airbus aircraft biplane jet jetliner monoplane plane seaplane
bus: minibus trolley
train: caboose locomotive tramway
truck: firetruck hauler lorry pickup
boat: barge battleship canoe catamaran dinghy ferry ferryboat freighter houseboat kayak lifeboat
  liner motorboat paddleboat pontoon powerboat riverboat rowboat sailboard sailboat schooner ship
  skiff speedboat steamboat steamship trawler tugboat vessel watercraft yacht
traffic_light: stop_light stoplight street_light streetlight traffic_signal
fire_hydrant: hydrant
stop_sign:
parking_meter:
bench: pew
bird: blackbird bluebird bluejay buzzard chickadee cockatiel cockatoo condor cormorant cowbird crow
  duck egret falcon finch flamingo fowl goose gosling gull heron hummingbird kingfisher loon
  lorikeet macaw magpie mallard oriole osprey ostrich owl parakeet parrot peacock peafowl pelican
  pheasant pigeon puffin quail raven robin rooster sandpiper seabird seagull shorebird songbird
  sparrow swan turkey vulture warbler waterbird waterfowl willet woodpecker
cat: feline kitten tabby
dog: beagle brindle bulldog canine chihuahua cocker collie corgi dachshund doberman doggie doggy
  greyhound hound husky labrador mutt pitbull poodle pug pup puppy retriever rottweiler schnauzer
  sheepdog spaniel terrier weimaraner whippet
horse: bronc bronco clydesdale colt equine foal mare mustang palomino pony racehorse stallion
sheep: ewe goat lamb ram
cow: bison buffalo bull calf cattle heifer holstein ox oxen zebu
elephant:
bear: panda
zebra:
giraffe:
backpack: knapsack
umbrella:
handbag: briefcase purse wallet
tie: bow bow_tie
suitcase: luggage suit_case
frisbee:
skis: ski
snowboard:
sports_ball: ball
kite:
baseball_bat:
baseball_glove:
skateboard:
surfboard: longboard shortboard skimboard wakeboard
tennis_racket: racket
bottle:
wine_glass:
cup:
fork:
knife: knive pocketknife
spoon:
bowl: container
banana:
apple:
sandwich: burger cheeseburger hamburger sub
orange:
broccoli:
carrot:
hot_dog:
pizza:
donut: bagel doughnut
cake: cheesecake coffeecake cupcake pancake shortcake
chair: seat stool
couch: chesterfield futon loveseat recliner settee sofa
potted_plant: houseplant
bed:
dining_table: desk table
toilet: commode lavatory potty urinal
tv: monitor televison television
laptop: computer laptop_computer lenovo macbook netbook notebook
mouse:
remote:
keyboard:
cell_phone: cellphone mobile_phone phon phone smartphone telephone
microwave:
oven: stove stovetop
toaster:
sink:
refrigerator: freezer fridge
book:
clock:
vase:
scissors:
teddy_bear: teddybear
hair_drier: hairdryer
toothbrush:
"""
# Two words that are read as one. Some name no class: they keep their parts from being counted.
_JOINED = (
    "motor bike|motor cycle|air plane|traffic light|street light|traffic signal|stop light|"
    "fire hydrant|stop sign|parking meter|suit case|baseball bat|baseball glove|tennis racket|"
    "wine glass|hot dog|cell phone|mobile phone|teddy bear|hair drier|potted plant|"
    "laptop computer|home plate|train track"
)
# What WordNet 3 knows no noun for, so that the public scorer leaves their plurals as they are.
_NOT_IN_WORDNET = (
    "biker bluejay brindle children coworker firetruck hairdryer knive lenovo longboard macbook "
    "netbook paddleboat pitbull riverboat sailboard shortboard skimboard skis smartphone solider "
    "stovetop teddybear televison"
)
# What the public table has a blank before, so that no word of a caption is it.
_UNREACHED = ("motor bike", "cheesecake")
_OTHER_LEMMAS = ("men", "vases")  # which WordNet has as 'men' and 'vas'
_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub"


@cache
def coco_vocabulary(lemmas: str = "wordnet") -> Vocabulary:
    """Give the vocabulary of CHAIR on COCO: 80 classes in COCO's order.

    Parameters
    ----------
    lemmas : {"wordnet", "english"}, optional
        Which words are known: those of the public scorer, which takes singulars from WordNet and
        so misses 'men', 'vases' and plurals of words such as 'smartphone', and which never finds
        'cheesecake' and 'motor bike', as its table is read; or those as well.

    Raises
    ------
    ValueError
        If ``lemmas`` is neither.

    Examples
    --------
    >>> len(coco_vocabulary().nouns("Two men")), len(coco_vocabulary("english").nouns("Two men"))
    (0, 1)
    >>> coco = coco_vocabulary()
    >>> [coco.names[each.noun] for each in coco.mentions("Two puppies and a baby elephant.")]
    ['dog', 'elephant']
    """
    if lemmas not in ("wordnet", "english"):
        raise ValueError(f"lemmas must be 'wordnet' or 'english', got {lemmas!r}")
    synonyms: dict[str, list[str]] = {}
    for word in _CLASSES.split():
        if word.endswith(":"):
            words = synonyms[word[:-1].replace("_", " ")] = []
        elif lemmas == "english" or word.replace("_", " ") not in _UNREACHED:
            words.append(word.replace("_", " "))
    phrases = {joined: joined for joined in _JOINED.split("|")}
    for animal in _ANIMALS.split():
        phrases |= {f"baby {animal}": animal, f"adult {animal}": animal}
    phrases |= {"passenger jet": "jet", "passenger train": "train"}
    phrases |= {"bow tie": "tie", "toilet seat": "toilet"}
    hidden_by = {"seat": "toilet"}
    if lemmas == "english":
        return Vocabulary(synonyms, phrases=phrases, hidden_by=hidden_by)
    return Vocabulary(
        synonyms, phrases=phrases, hidden_by=hidden_by,
        without_plural=_NOT_IN_WORDNET.split(), not_plural=_OTHER_LEMMAS,
    )  # fmt: skip
