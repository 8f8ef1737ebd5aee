"""The words of the games: nouns with associates for taboo, the closest first, and words of five letters for wordle."""

from __future__ import annotations

_ASSOCIATES = """
dog: bark pet puppy animal tail loyal fur wolf leash
cat: meow pet kitten animal whiskers mouse fur claws purr
horse: ride saddle stable animal gallop mane hooves race farm
whale: ocean mammal huge animal swim blue blubber sea song
eagle: bird wings prey feathers beak soar nest claws sky
bee: honey sting hive insect buzz wings flower queen pollen
snake: reptile venom slither scales bite fangs tongue skin
spider: web legs eight insect silk bite hairy fly
apple: fruit red tree orchard juice pie core sweet seed
lemon: sour yellow fruit citrus juice tree peel drink
bread: bake flour loaf oven slice butter wheat toast food
cheese: milk cow dairy yellow slice mouse food holes
coffee: drink bean caffeine cup morning black hot roast
honey: bee sweet sugar sticky jar golden food flower
soup: bowl spoon liquid hot food broth cook vegetables
ice: frozen water cold cube slippery winter melt solid
river: water stream flow bank bridge fish sea boat
mountain: peak climb high hill snow rock summit valley
ocean: sea water waves salt deep blue fish ship
desert: sand dry hot camel dune cactus sun empty
forest: trees woods green animals leaves shade wild path
island: water land surrounded beach palm sea boat small
moon: night earth lunar sky round bright orbit tide
sun: star light day hot yellow sky bright shine
rain: water clouds umbrella wet drops weather fall sky
snow: white winter cold flakes weather fall soft ski
fire: flame burn hot smoke wood heat light red
car: drive road wheels engine vehicle fast fuel seat
train: rails station track vehicle wagon fast travel ticket
boat: water sail ship vehicle sea row float fish
plane: fly wings airport pilot vehicle sky travel fast
bicycle: pedal wheels ride two vehicle chain seat road
doctor: hospital patient medicine nurse sick heal white health
teacher: school pupils class lesson learn board chalk exam
farmer: field crops cows tractor land wheat animals barn
king: crown queen throne royal rule palace castle man
piano: keys music black white instrument play concert song
guitar: strings music instrument play rock song wood concert
book: read pages author library story paper cover write
clock: time hands hour tick wall alarm round morning
mirror: reflection glass look face wall see bathroom
candle: wax wick flame light burn birthday smell soft
umbrella: rain wet handle open hold weather dry hand
ladder: climb rungs steps high wall wood roof tall
bridge: cross river span road over water arch steel
castle: king knight tower stone wall moat palace old
hammer: nail tool hit wood handle build metal heavy
knife: cut blade sharp kitchen fork slice metal handle
key: lock door open metal small turn ring house
chair: sit seat legs table furniture wood four back
"""

LEXICON: dict[str, tuple[str, ...]] = {
    word: tuple(rest.split()) for word, _, rest in (line.partition(": ") for line in _ASSOCIATES.strip().splitlines())
}

_FIVE_LETTERS = """
about above actor acute admit adopt adult after again agent agree ahead alarm album alert alike alive allow alone along alter among
anger angle angry apart apple apply arena argue arise array aside asset audio audit avoid award aware badly baker basic basis beach
begin being below bench birth black blame blind block blood board boost booth bound brain brand bread break breed brief bring broad
broke brown build built buyer cable carry catch cause chain chair chart chase cheap check chest chief child china claim class clean
clear click clock close coach coast could count court cover craft crash cream crime cross crowd crown curve cycle daily dance dealt
death delay depth doing doubt dozen draft drama drawn dream dress drill drink drive early earth eight elite empty enemy enjoy enter
entry equal error event every exact exist extra faith false fault fiber field fifth fifty fight final first fixed flash fleet floor
fluid focus force forth forum found frame fresh front fruit fully funny giant given glass globe going grace grade grand grant grass
great green gross group grown guard guess guest guide happy heart heavy horse hotel house human ideal image index inner input issue
joint judge known label large laser later laugh layer learn lease least leave legal level light limit local logic loose lower lucky
lunch major maker march match maybe mayor meant media metal might minor mixed model money month moral motor mount mouse mouth movie
music needs never newly night noise north noted novel nurse occur ocean offer often order other ought paint panel paper party peace
phase phone photo piece pilot pitch place plain plane plant plate point pound power press price pride prime print prior prize proof
proud prove queen quick quiet quite radio raise range rapid ratio reach ready refer right river rough round route royal rural scale
scene scope score sense serve seven shall shape share sharp sheet shelf shell shift shirt shock shoot short shown sight since sixth
skill sleep slide small smart smile smoke solid solve sorry sound south space spare speak speed spend split sport staff stage stake
stand start state steam steel stick still stock stone store storm story strip study stuff style sugar suite super sweet table taken
taste teach thank theme there thick thing think third throw tight tired title today topic total touch tough tower track trade train
treat trend trial trust truth twice under union unity until upper upset urban usage usual valid value video visit vital voice waste
watch water wheel where which while white whole whose woman world worry worth would write wrong young youth
"""

WORDS: tuple[str, ...] = tuple(_FIVE_LETTERS.split())
