"""Short, common English words, for the tasks about letters."""

WORDS = """
add age ago air all and ant any arm art ask ate axe bad bag bar bat bed bee beg bet big bit bow box
boy bus but buy cab can cap car cat cow cry cup cut day den dig dim dog dot dry ear eat egg end fan
far fat few fig fin fit fix fly fog fox fun fur gap gas get got gum guy hat hen her hid him hip hit
hot how hut ice ill ink jam jar jet job joy key kid kit lab lap law leg let lid lip log lot low mad
man map mat men mix mud net new nut oak odd off oil old one our out owl own pad pan pay pea pen pet
pie pig pin pot put rag ran rat raw red rib rod row rub run sad sat saw sea see set she shy sit six
sky son sun tap tea ten tin tip toe top toy try two use van war was way web wet who win yes you zoo
able ball band bank barn bear bell bird boat book bowl bread bridge butter candle carrot castle
cheese cherry coffee cookie cotton dinner dress engine feather finger flower forest garden glass
grass green happy hammer island jungle kettle kitten ladder lemon letter little lesson mirror
monkey number orange paper pepper pillow planet potato puzzle rabbit river rocket school sheep
silver summer sunset street tomato travel tree tunnel turtle valley wheel window winter wooden
yellow
apple balloon banana bubble bottle button cabbage cannon carpet circle coconut cocoon cooking copper
cricket dancer daddy donkey effort eleven evening eleventh excellent fellow ferry foggy follow
funny gallery giggle goggles gossip hobby hollow hurry jelly kitchen lantern lesser lily lobby lolly
mammoth manner marry mattress memory minimum mommy muffin mummy ninety noon nothing onion papaya
papa parrot passage pebble penny people pioneer pizza pollen poppy popcorn puppet puppy puddle queen
rubber ruler runner sausage scissors sister sorry spoon sunny supper sweet taste teeth tennis ticket
toast tooth total trumpet twenty vacuum village volleyball waffle willow wisdom wool yogurt
""".split()
