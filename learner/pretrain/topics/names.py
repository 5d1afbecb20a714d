"""First names: a long list from many languages, and invented ones, so that a name is copied and never recalled."""

from __future__ import annotations

import re
from random import Random

# Long lists read better as one text.
# ruff: noqa: SIM905
# fmt: off

NAMES = tuple((
    "Anna Ben Carla David Emma Felix Grace Hugo Ida Jack Kate Leo Mia Nina Oscar Paula Quinn Sam Tina Uma Victor "
    "Wendy Max Zoe Alex Lena Omar Priya Chen Yuki Ali Maria Tom Lucy Eva Noah Ella Ravi Aaron Abel Abigail Abu Ada "
    "Adam Adele Adil Aditi Adrian Agata Agnes Ahmed Aida Aiko Aileen Aisha Akira Alan Albert Alberto Alejandra "
    "Alexandra Alexei Alfred Alice Alina Alison Alma Alva Alvaro Amal Amanda Amara Amelia Amina Amir Amit Amy Ana "
    "Anders Andre Andrea Andrew Andy Angela Angus Anil Anita Anja Anke Annette Annika Antoine Anton Antonia Anya "
    "Aoife Arash Ari Ariel Arjun Arlo Arman Arne Arthur Arturo Asa Asha Ashley Astrid Athena Audrey Aurora Ava Axel "
    "Ayesha Ayla Ayumi Babak Barbara Bart Basil Beata Beatrice Bella Benedict Benjamin Berit Bernard Bertha Beth "
    "Bianca Bilal Bill Birgit Bjorn Blanca Bob Bogdan Boris Brenda Brian Bridget Brigitte Bruce Bruna Bruno Camille "
    "Carl Carlos Carmen Carol Caroline Casper Cath Cecilia Cedric Celia Celine Cesar Charles Charlotte Chiara Chidi "
    "Chloe Chris Christina Ciara Cindy Claire Clara Claude Claudia Clement Colin Connor Cora Cornelia Craig Cristina "
    "Cyrus Dagmar Dalia Damian Dan Dana Daniel Daniela Danilo Dario Dasha Deepak Deirdre Delia Denis Derek Diana "
    "Diego Dieter Dimitri Dina Dirk Dmitri Dominic Dora Doris Dorothea Douglas Duncan Dylan Ebba Eddie Edgar Edith "
    "Edmund Eduardo Edward Edwin Efua Eileen Einar Eira Elaine Eleanor Elena Eli Elias Elif Elijah Elin Elisa "
    "Elizabeth Elke Ellen Elliot Eloise Elsa Elvira Emil Emilia Emily Emre Enid Enrique Enzo Eric Erik Erika Erin "
    "Ernest Esme Esra Esteban Esther Ethan Eugene Evelyn Ewa Ezra Fabian Fadi Farah Farid Fatima Fay Federico "
    "Fernando Filip Fiona Flora Florian Frances Francesca Francis Frank Franz Freya Frida Frieda Fritz Gabriel "
    "Gabriela Gareth Gary Gavin Gemma Geoffrey George Gerald Gerda Gianna Gideon Gilbert Gina Gisela Giulia Glen "
    "Gloria Goran Gordon Greta Gudrun Guido Gunther Gustav Gwen Hadi Hakan Hamza Hana Hannah Hans Harald Harold "
    "Harriet Harry Haruto Hassan Hector Heidi Heinrich Helen Helga Helmut Henrik Henry Herbert Hilda Hina Hiroshi "
    "Holly Howard Hussein Ian Ibrahim Igor Ilse Imani Imran Ines Inga Ingrid Ioana Iris Irma Isaac Isabel Isla Ismail "
    "Ivan Ivana Jacob Jaime Jakub Jamal James Jan Jana Jane Janet Janina Jared Jasmin Jason Javier Jay Jean Jeff "
    "Jelena Jennifer Jeremy Jerome Jesper Jess Jill Jin Joan Joanna Joao Joel Johan Johanna John Jonas Jonathan Jorge "
    "Jose Josefina Joseph Josh Joyce Juan Judith Julia Julian Juliet Jun Jurgen Justin Kai Kamal Kamila Karen Karim "
    "Karin Karl Karla Kasia Katarina Katherine Kathleen Kavita Keiko Keith Kelly Ken Kenji Kerstin Kevin Khalid Kim "
    "Kira Kiran Klaus Kofi Kristen Kurt Kwame Kyle Laila Lakshmi Lara Lars Laszlo Latifa Laura Lauren Laurent Layla "
    "Lea Leah Leila Leon Leonard Leonie Leticia Levi Lewis Lian Liam Lidia Lin Linda Linnea Lisa Liv Liz Lola Lorenzo "
    "Louis Louise Luca Lucas Lucia Ludwig Luis Luisa Luka Luna Lydia Lynn Mabel Madeleine Magda Magnus Mahmoud Maja "
    "Malik Manfred Manuel Mara Marc Marcel Marcia Marco Marek Margaret Margot Marianne Marie Marina Mario Marion "
    "Marius Mariusz Mark Marlene Marlon Martin Martina Mary Masha Mateo Mathilde Matt Matthew Maud Maurice Maya "
    "Mehmet Mei Melanie Melissa Mercedes Michael Michelle Miguel Mika Mikhail Mila Milan Milena Milo Mina Ming Minh "
    "Mira Miriam Mohamed Mona Monica Morgan Moritz Mustafa Nadia Nadine Nancy Naomi Natalia Natasha Nathan Neil "
    "Nelson Neha Nia Nicholas Nick Nicole Niels Nikhil Niko Nils Nisha Noel Noelle Nora Norbert Norman Nuala Nuria "
    "Odette Olaf Oleg Olena Oliver Olivia Ophelia Orla Osman Otto Owen Pablo Padma Pamela Paolo Pat Patricia Patrick "
    "Paul Pauline Pavel Pedro Penelope Percy Petra Philip Phoebe Pia Pierre Pilar Piotr Pranav Rachel Rachid Radek "
    "Rafael Rahul Raj Ralph Ramona Ramon Rania Rashid Raul Rebecca Regina Reinhard Rekha Renata Rene Rhys Ricardo "
    "Richard Rita Rob Roberta Roberto Rocco Roger Rohan Roland Rolf Roman Romeo Ron Rory Rosalind Rosanna Rosie Ross "
    "Rowan Roy Ruben Rudolf Rupert Russell Ruth Ryan Sabine Sabrina Sachiko Said Sakura Salma Salvador Samira Samuel "
    "Sandra Sanjay Santino Sara Sarah Sasha Saskia Scott Sean Sebastian Selim Selma Serena Serge Sergio Seth Shauna "
    "Sheila Shirin Shreya Sian Siddharth Sigrid Silas Silvia Simon Simone Sinead Siobhan Solveig Sonia Soren Stan "
    "Stefan Stella Stephen Steve Stuart Sue Sunil Suresh Susan Susanne Suzy Svetlana Sven Sybil Sylvie Tadeusz "
    "Takeshi Tamara Tania Tara Tariq Tatiana Ted Teresa Terry Tess Thea Theo Thomas Thorsten Tibor Tilda Tim Timo "
    "Tobias Tomas Tony Toshi Tove Tracy Tristan Trudy Tyler Ulla Ulrich Umar Ursula Valentina Valeria Vanessa Vasco "
    "Vera Verena Veronica Vicky Vijay Vikram Vincent Viola Virginia Vito Vivian Vlad Waldo Walid Walter Wanda Wei "
    "Werner Wilhelm Will Wilma Winston Wolfgang Xavier Xenia Ximena Yael Yannick Yara Yasmin Yolanda Yosef Yusuf "
    "Yvonne Zachary Zahra Zainab Zara Zelda Zeynep Zofia Zuzana"
).split())

UNTAUGHT_NAMES = tuple((
    "Olga Marta Dimitra Thora Svenja Bartosz Tomoko Ngozi Peter Erwan Agnieszka Jamila Konrad Lorna Percival Renske "
    "Sunita "
    "Thandi Ulrike Vaclav Wiebke Yanis Zoran Delphine Fergus Giorgio Henrietta Ilona Jolanta Margit Nikolai Robert"
).split())
"""Names that training never uses: for measuring whether a new name is copied."""

_ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr r s sh sk st t th tr v w y z".split()
_VOWELS = "a a a e e e i i o o u ai ei ia io ee ou".split()
_CODAS = "n n l r s s m k t x nd rt sh th ck ra la na".split()
_MIDDLES = "l ll m n nn r rr s ss st t tt d b bi k lv nd ns rg rt sh th v z j ch".split()
_ENDINGS = (
    "a a e i o o us as os is in an en on el il er or ar ina ella ette y ie ah ias ius ander win bert mir rik ko"
).split()
_FIRSTS = "a e i o u al an ar el em er in is ol or ul".split()
_RUDE = (
    "ass anal anus arse bitch butt clit cock coon crap cum cunt damn dick die dike dyke fag fuc fuk gay git hitler hoe "
    "homo jew jiz kill kike kkk nazi negr nig nude paki penis pee piss poo porn puss rape satan sex shit slut spas "
    "suck "
    "tit turd twat vag wank whor"
).split()
_UNSPEAKABLE = re.compile(r"(.)\1\1|[^aeiouy]{4}")
_TAUGHT_SHARE = 0.45


def is_rude(word: str) -> bool:
    """Whether a made-up word is, or holds, a rude one."""
    return word.lower() in ("ho", "shi") or any(rude in word.lower() for rude in _RUDE)


def invent(rng: Random, syllables: int) -> str:
    """A word without meaning that can be pronounced, in lower case."""
    while True:
        body = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables))
        word = body + (rng.choice(_CODAS) if rng.random() < 0.6 else "")
        if word != "the" and not is_rude(word):
            return word


def _invent_name(rng: Random) -> str:
    """A made-up name that looks like one: a beginning, perhaps a middle, and an ending of names."""
    while True:
        start = rng.choice(_FIRSTS) if rng.random() < 0.25 else rng.choice(_ONSETS) + rng.choice("aeiou")
        middle = rng.choice(_MIDDLES)
        if rng.random() < 0.35:
            middle += rng.choice("aeio") + rng.choice(_MIDDLES)
        if not is_rude(name := start + middle + rng.choice(_ENDINGS)):
            return name


def _blend(rng: Random) -> str:
    """The beginning of one real name and the end of another."""
    while True:
        one, two = rng.sample(NAMES, 2)
        name = one[: rng.randint(2, 4)].lower() + two[-rng.randint(2, 4) :].lower()
        if not is_rude(name):
            return name


def draw_name(rng: Random) -> str:
    """A real name or, a little more often, one of the invented kinds."""
    if rng.random() < _TAUGHT_SHARE:
        return rng.choice(NAMES)
    while True:
        kind = rng.random()
        if kind < 0.4:
            name = _invent_name(rng)
        elif kind < 0.7:
            name = _blend(rng)
        else:
            name = invent(rng, rng.choice((1, 2, 2, 3)))
        if name.capitalize() not in UNTAUGHT_NAMES and len(name) > 2 and not _UNSPEAKABLE.search(name):
            return name.capitalize()
