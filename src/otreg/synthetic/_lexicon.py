"""The words and templates of the miniature's grammars; see `otreg.synthetic.sentences`.

Slots are comma-separated so that an entry may have several words ("the old bridge").
"""

from __future__ import annotations

from typing import Any

LEXICON: dict[str, dict[str, Any]] = {
    "en": {
        "slots": {
            "person": "anna,peter,maria,thomas,my brother,my sister,the teacher,the farmer,"
            "the doctor,our neighbour,the baker,the pilot,daniel,sofia,victor,julia,"
            "martin,helen",
            "did": "found,bought,sold,painted,carried,dropped,cleaned,hid,borrowed,broke,"
            "carved,fixed,lost,mended",
            "colour": "red,blue,green,yellow,black,white,brown,golden",
            "thing": "basket,bottle,hammer,lamp,mirror,pencil,ring,table,umbrella,violin,"
            "candle,bicycle,blanket,bucket,camera,carpet,clock,curtain,dress,drum,"
            "engine,feather,guitar,jacket",
            "place": "in the garden,at the station,near the river,behind the church,"
            "on the bridge,at the market,in the kitchen,under the tree,"
            "near the castle,beside the fountain,inside the museum,at the airport",
            "day": "monday,tuesday,wednesday,thursday,friday,saturday,sunday",
            "adverb": "slowly,quietly,carefully,early,together,again,gently,loudly",
            "moves": "walks,runs,swims,dances,sings,waits,whispers,laughs,studies",
            "number": "two,three,four,five,six,seven,eight,nine,ten,twelve,twenty",
            "animals": "horses,rabbits,sheep,pigeons,frogs,spiders,turtles,foxes,camels,wolves",
            "motion": "crossed,followed,reached,left,circled",
            "ground": "field,valley,desert,island,harbour,forest,meadow",
            "weather": "rain,snow,thunder,fog,sunshine,wind",
            "season": "spring,summer,autumn,winter",
            "hour": "noon,midnight,dawn,sunset",
            "family": "mother,father,uncle,cousin,grandmother,nephew",
            "food": "bread,cheese,soup,honey,butter,rice,pepper,chocolate,fruit,garlic",
            "taste": "sweet,bitter,fresh,cold,salty,warm",
            "drink": "water,coffee,milk,juice,tea",
            "price": "cheap,expensive,heavy,light,broken,empty",
            "when": "tomorrow,tonight,yesterday,often,never",
        },
        "templates": {
            "paired": [
                "{person} {did} the {colour} {thing}",
                "{person} {did} a {thing} {place}",
                "on {day} {person} {moves} {adverb}",
                "{person} {moves} {place}",
                "the {colour} {thing} is {place}",
                "my {family} {did} {number} {animals}",
                "in {season} {person} {did} {food} and {drink}",
                "{person} {moves} {adverb} {place}",
            ],
            "development": [
                "before {hour} {person} {moves} {place} {adverb}",
                "{place} {person} {did} {number} {animals}",
                "the {thing} of {person} is not {colour}",
                "in {season} {person} and {person} {motion} the {ground}",
                "there was {weather} {place} on {day}",
                "does {person} need the {colour} {thing} in {season}",
            ],
            "test": [
                "{when} {person} {did} the {colour} {thing} {place}",
                "why is the {thing} so {price} on {day}",
                "my {family} {did} {food} and a {thing} on {day}",
                "please put the {colour} {thing} {place}",
                "her {family} {moves} {adverb} without {drink}",
                "the {food} {place} is {taste} and {taste}",
            ],
        },
    },
    "es": {
        "slots": {
            "person": "ana,pedro,lucía,tomás,mi hermano,mi hermana,el maestro,la doctora,"
            "el granjero,la vecina,el panadero,el piloto,daniel,sofía,víctor,julia,"
            "martín,elena",
            "did": "encontró,compró,vendió,pintó,llevó,perdió,limpió,escondió,abrió,arregló,"
            "cerró,cogió,cortó,envolvió",
            "colour": "rojo,negro,blanco,amarillo,dorado,morado",
            "thing": "cesto,vaso,martillo,espejo,lápiz,anillo,paraguas,violín,sombrero,libro,"
            "reloj,zapato,cuchillo,teléfono,vestido,tambor,cuadro,plato,tenedor,"
            "abrigo,bolso,cepillo,collar,dibujo",
            "place": "en el jardín,en la estación,cerca del río,detrás de la iglesia,"
            "sobre el puente,en el mercado,en la cocina,bajo el árbol,"
            "junto a la fuente,dentro del museo,en el aeropuerto,fuera del hospital",
            "day": "lunes,martes,miércoles,jueves,viernes,sábado,domingo",
            "adverb": "despacio,temprano,siempre,junto,mucho,afuera,suavemente,rápido",
            "moves": "camina,corre,nada,baila,canta,espera,susurra,ríe,estudia",
            "number": "dos,tres,cuatro,cinco,seis,siete,ocho,nueve,diez,doce,veinte",
            "animals": "caballos,conejos,patos,ranas,gatos,lobos,zorros,camellos,burros,monos",
            "motion": "cruzaron,siguieron,dejaron,rodearon,buscaron",
            "ground": "campo,valle,desierto,puerto,bosque,prado,camino",
            "weather": "lluvia,nieve,niebla,tormenta,viento,sol",
            "season": "primavera,verano,otoño,invierno",
            "hour": "mediodía,medianoche,amanecer,atardecer",
            "family": "madre,padre,tío,primo,abuela,sobrino",
            "food": "pan,queso,sopa,miel,fruta,cebolla,arroz,pimienta,chocolate,carne",
            "taste": "dulce,caliente,fresca,fría,salada",
            "drink": "agua,leche,café,jugo,té",
            "price": "barato,caro,pesado,ligero,roto,vacío",
            "when": "mañana,hoy,ayer,nunca,ahora",
        },
        "templates": {
            "paired": [
                "{person} {did} el {thing} {colour}",
                "{person} {did} un {thing} {place}",
                "el {day} {person} {moves} {adverb}",
                "{person} {moves} {place}",
                "el {thing} {colour} está {place}",
                "mi {family} {did} {number} {animals}",
                "en {season} {person} {did} {food} y {drink}",
                "{person} {moves} {adverb} {place}",
            ],
            "development": [
                "antes del {hour} {person} {moves} {place} {adverb}",
                "{place} {person} {did} {number} {animals}",
                "el {thing} de {person} nunca fue {colour}",
                "durante {season} {person} y {person} {motion} el {ground}",
                "había {weather} {place} el {day}",
                "necesita {person} el {thing} {colour} en {season}",
            ],
            "test": [
                "{when} {person} {did} el {thing} {colour} {place}",
                "por qué está tan {price} el {thing} el {day}",
                "nuestra {family} {did} {food} y un {thing} el {day}",
                "pon el {thing} {colour} {place}",
                "tu {family} {moves} {adverb} sin {drink}",
                "el {food} {place} está {taste} y {taste}",
            ],
        },
    },
    "de": {
        "slots": {
            "person": "hanna,jonas,greta,lukas,mein bruder,meine schwester,der lehrer,"
            "die ärztin,der bauer,die nachbarin,der bäcker,der pilot,daniel,sofia,"
            "viktor,julia,martin,helene",
            "did": "findet,kauft,verkauft,malt,trägt,verliert,putzt,versteckt,öffnet,"
            "schließt,bricht,schneidet,wäscht,flickt",
            "colour": "roten,blauen,grünen,gelben,schwarzen,weißen,braunen,goldenen",
            "thing": "korb,becher,hammer,spiegel,bleistift,ring,tisch,schirm,mantel,schuh,"
            "teller,stuhl,löffel,teppich,koffer,vorhang,kessel,ball,besen,brief,"
            "drachen,eimer,fernseher,handschuh",
            "place": "im garten,am bahnhof,neben dem fluss,hinter der kirche,auf der brücke,"
            "auf dem markt,in der küche,unter dem baum,am brunnen,im museum,"
            "am flughafen,vor dem krankenhaus",
            "day": "montag,dienstag,mittwoch,donnerstag,freitag,samstag,sonntag",
            "adverb": "langsam,leise,vorsichtig,früh,zusammen,wieder,sanft,laut",
            "moves": "läuft,rennt,schwimmt,tanzt,singt,wartet,flüstert,lacht,lernt",
            "number": "zwei,drei,vier,fünf,sechs,sieben,acht,neun,zehn,zwölf,zwanzig",
            "animals": "pferde,hasen,schafe,tauben,frösche,spinnen,kamele,füchse,wölfe,enten",
            "motion": "queren,suchen,erreichen,verlassen,umkreisen",
            "ground": "feld,tal,ufer,dorf,moor,gebirge,gras",
            "weather": "regen,schnee,donner,nebel,sonnenschein,wind",
            "season": "frühling,sommer,herbst,winter",
            "hour": "mittag,mitternacht,abend,morgen",
            "family": "mutter,tante,cousine,großmutter,nichte,tochter",
            "food": "brot,käse,suppe,honig,butter,obst,knoblauch,reis,pfeffer,schokolade",
            "taste": "süß,bitter,frisch,kalt,salzig,warm",
            "drink": "wasser,kaffee,milch,saft,tee",
            "price": "billig,teuer,schwer,leicht,kaputt,leer",
            "when": "heute,gestern,oft,niemals,jetzt",
        },
        "templates": {
            "paired": [
                "{person} {did} den {colour} {thing}",
                "{person} {did} einen {thing} {place}",
                "am {day} {moves} {person} {adverb}",
                "{person} {moves} {place}",
                "den {colour} {thing} gibt es {place}",
                "meine {family} {did} {number} {animals}",
                "im {season} {did} {person} {food} und {drink}",
                "{person} {moves} {adverb} {place}",
            ],
            "development": [
                "vor {hour} {moves} {person} {place} {adverb}",
                "{place} {did} {person} {number} {animals}",
                "den {thing} von {person} will niemand {colour}",
                "im {season} {motion} {person} und {person} das {ground}",
                "es gab {weather} {place} am {day}",
                "braucht {person} den {colour} {thing} im {season}",
            ],
            "test": [
                "{when} {did} {person} den {colour} {thing} {place}",
                "warum ist {food} so {price} {place}",
                "meine {family} {did} {food} und einen {thing} am {day}",
                "bitte stell den {colour} {thing} {place}",
                "deine {family} {moves} {adverb} ohne {drink}",
                "{place} ist {food} {taste} und {taste}",
            ],
        },
    },
}
