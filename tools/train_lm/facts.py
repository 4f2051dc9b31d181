"""What the model is taught to say: questions with the answers to them, all written for this project.

Each row is ``(questions, answers)``; the generator picks one of each. Keep answers short, true and plain.
"""

# ruff: noqa: E501, SIM905 - tables and word lists read better in one piece
from __future__ import annotations

FACTS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (
        ("attestation", "remote attestation"),
        (
            "Attestation is how a machine shows what it runs. It signs a statement about its software and keys, and a "
            "verifier checks that statement before trusting the machine.",
            "Attestation is evidence that a machine gives about itself. A verifier compares the evidence with reference "
            "values and decides whether to rely on it.",
        ),
    ),
    (
        ("a receipt", "an inference receipt", "a signed receipt"),
        (
            "A receipt is a signed statement of one exchange. It names the request, the answer and the checks by their "
            "digests, so that anyone can verify it later.",
        ),
    ),
    (
        ("a transparency log", "an append-only log"),
        (
            "A transparency log is a list that can only grow. Every entry is hashed into a Merkle tree, so nobody can "
            "change or remove an old entry without being noticed.",
        ),
    ),
    (
        ("a Merkle tree", "a hash tree"),
        (
            "A Merkle tree is a tree of hashes. Each leaf is the hash of an entry, and each node is the hash of its two "
            "children, so the root commits to every entry.",
        ),
    ),
    (
        ("an inclusion proof",),
        (
            "An inclusion proof is a short list of hashes. With it you can compute the root of the tree from one entry, "
            "which shows that the entry is in the log.",
        ),
    ),
    (
        ("a consistency proof",),
        (
            "A consistency proof shows that a newer log is an extension of an older one. Nothing that was in the old log "
            "was changed or removed.",
        ),
    ),
    (
        ("a checkpoint", "a signed checkpoint"),
        (
            "A checkpoint is a signed note with the size and the root hash of a log. Two checkpoints can be compared "
            "with a consistency proof.",
        ),
    ),
    (
        ("a witness", "a log witness"),
        (
            "A witness watches a log and cosigns its checkpoints. It refuses to sign when the log is not consistent with "
            "what it saw before.",
        ),
    ),
    (
        ("a nonce",),
        (
            "A nonce is a number that is used once. A fresh nonce in a signed answer shows that the answer is not a replay.",
        ),
    ),
    (
        ("a replay attack", "replay"),
        (
            "In a replay attack, somebody sends an old answer again as if it were new. A fresh nonce in every request "
            "stops it.",
        ),
    ),
    (
        ("a digital signature", "a signature"),
        (
            "A signature is a number computed from a message and a private key. Anyone with the public key can check that "
            "the message was not changed.",
        ),
    ),
    (
        ("Ed25519",),
        ("Ed25519 is a signature scheme. Its keys have 32 bytes, its signatures have 64 bytes, and it is fast.",),
    ),
    (
        ("a hash", "a hash function", "SHA-256"),
        (
            "A hash function turns any bytes into a short digest. When one bit of the input changes, the digest changes "
            "completely.",
        ),
    ),
    (
        ("a digest",),
        ("A digest is the output of a hash function. It names some bytes without showing them.",),
    ),
    (
        ("a public key",),
        ("A public key is the half of a key pair that everybody may know. It checks signatures but cannot make them.",),
    ),
    (
        ("a private key",),
        (
            "A private key is the secret half of a key pair. Whoever holds it can sign, so it must never leave its owner.",
        ),
    ),
    (
        ("a TEE", "a trusted execution environment", "confidential computing"),
        (
            "A trusted execution environment is a part of a machine that its operator cannot read. The processor signs a "
            "quote that says which code runs inside.",
        ),
    ),
    (
        ("a quote", "a TEE quote"),
        (
            "A quote is a statement signed by the processor. It holds the measurements of the code and 64 bytes of report "
            "data that bind a key.",
        ),
    ),
    (
        ("a measurement",),
        ("A measurement is a digest of code or configuration, taken before the code runs.",),
    ),
    (
        ("a policy", "an appraisal policy"),
        (
            "A policy is a file that says which evidence is needed before an answer may be used. People review it like "
            "code.",
        ),
    ),
    (
        ("a verifier",),
        ("A verifier checks evidence against a policy and reports a verdict for every check, with the reason.",),
    ),
    (
        ("a verdict",),
        (
            "A verdict is the result of the checks. It is affirming, warning, contraindicated or none, and none is never "
            "a pass.",
        ),
    ),
    (
        ("a relying party",),
        (
            "The relying party is the one who uses the answer. It should do its own checks and not trust a copy of them.",
        ),
    ),
    (
        ("a gateway", "an AI gateway", "an inference gateway"),
        (
            "A gateway stands between an agent and many models. It routes each request to a node, checks the answer and "
            "keeps an audit log.",
        ),
    ),
    (
        ("veriroute",),
        (
            "veriroute is a gateway for AI agents. It checks the evidence of a node before the agent relies on the answer, "
            "and writes a signed receipt into a log.",
        ),
    ),
    (
        ("a node", "an inference node"),
        ("A node is a machine that serves a model. It signs what it answers so that others can check it.",),
    ),
    (
        ("an agent", "an AI agent"),
        ("An agent is a program that asks a model what to do next and then does it with tools.",),
    ),
    (
        ("a tool call", "tool calling", "function calling"),
        (
            "In a tool call the model asks the program to run a function. It gives the name of the function and the "
            "arguments as JSON.",
        ),
    ),
    (
        ("a token",),
        ("A token is a piece of text, often a short word or a part of one. A model reads and writes tokens.",),
    ),
    (
        ("a language model", "an LLM", "a large language model"),
        (
            "A language model predicts the next token of a text. When it is asked a question, it continues the text with "
            "an answer.",
        ),
    ),
    (
        ("temperature", "sampling temperature"),
        ("Temperature says how freely a model chooses its next token. At zero it always takes the most likely one.",),
    ),
    (
        ("a seed",),
        ("A seed fixes the random choices. With the same seed and the same prompt the model gives the same answer.",),
    ),
    (
        ("an embedding", "a vector embedding"),
        (
            "An embedding is a list of numbers that stands for a text. Texts with a similar meaning get similar numbers.",
        ),
    ),
    (
        ("streaming", "a streamed answer"),
        (
            "A streamed answer arrives piece by piece while the model still writes it. The last event says that it is complete.",
        ),
    ),
    (
        ("an API key",),
        ("An API key is a secret text that names the caller of a service. Keep it out of your code and your logs.",),
    ),
    (
        ("JSON",),
        ("JSON is a text format for data. It has objects, arrays, strings, numbers, true, false and null.",),
    ),
    (
        ("HTTP",),
        (
            "HTTP is the protocol of the web. A client sends a request with a method and a path, and a server answers it.",
        ),
    ),
    (
        ("TLS",),
        ("TLS encrypts a connection and shows the client whose key is at the other end.",),
    ),
    (
        ("an audit log", "an audit trail"),
        (
            "An audit log keeps what happened, in order. When its entries are hashed and signed, nobody can change it unseen.",
        ),
    ),
    (
        ("a zero-knowledge proof", "zk"),
        ("A zero-knowledge proof shows that a computation was done correctly without showing its secret inputs.",),
    ),
    (
        ("a quorum",),
        ("A quorum is a group that is large enough to decide. Several nodes answer, and enough of them must agree.",),
    ),
    (
        ("re-execution",),
        ("In re-execution a second node runs the same request with the same seed and compares the answers.",),
    ),
    (
        ("a decentralized network", "a decentralized inference network"),
        (
            "A decentralized inference network has many operators who serve models. You do not know them, so you check "
            "the evidence of each answer.",
        ),
    ),
    (
        ("compliance",),
        ("Compliance means that you can show that the rules were kept. A log with proofs makes that much easier.",),
    ),
    (("encryption",), ("Encryption turns a text into bytes that only the holder of a key can read.",)),
    (
        ("a database",),
        ("A database stores records and finds them again. A transaction changes several records at once.",),
    ),
    (("a computer",), ("A computer is a machine that follows a list of instructions, called a program.",)),
    (("a program",), ("A program is a list of instructions for a computer, written in a language like Python.",)),
    (
        ("Python",),
        ("Python is a programming language. It is easy to read and is used for tools, science and the web.",),
    ),
    (("a test",), ("A test runs a part of a program and compares the result with what it should be.",)),
    (("a bug",), ("A bug is a mistake in a program. A good test shows it before the users do.",)),
    (("a server",), ("A server is a program that waits for requests and answers them.",)),
    (("a network",), ("A network connects computers so that they can send messages to each other.",)),
    (("trust",), ("Trust means to rely on somebody without checking. It is better to check what can be checked.",)),
    (("a secret",), ("A secret is something that only a few should know, like a password or a private key.",)),
    (("a password",), ("A password is a secret word. A long one is better, and every service should have its own.",)),
    (("the sun",), ("The sun is the star in the middle of our solar system. It gives us light and heat.",)),
    (("the moon",), ("The moon goes around the Earth in about a month. It shines with the light of the sun.",)),
    (("water",), ("Water is a clear liquid. It freezes at 0 degrees and boils at 100 degrees Celsius.",)),
    (("a tree",), ("A tree is a tall plant with a trunk, branches and leaves. It lives for many years.",)),
    (("music",), ("Music is sound in time, made of melody, harmony and rhythm.",)),
    (("a friend",), ("A friend is somebody you like and can rely on.",)),
]

EXACT: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (
        ("hello", "hi", "hey", "good morning", "good evening", "hello there", "hi there", "hey there", "greetings"),
        (
            "Hello! How can I help you today?",
            "Hi! What would you like to know?",
            "Hello! Ask me about attestation, logs or small sums.",
        ),
    ),
    (
        ("how are you", "how are you today", "how do you do", "how is it going"),
        ("I am fine, thank you. How can I help you?", "I am well. What would you like to know?"),
    ),
    (
        ("who are you", "what are you", "what is your name", "which model are you", "introduce yourself"),
        ("I am veriroute-lm-1, a very small language model. A reference node serves me and signs every answer.",),
    ),
    (
        ("what can you do", "help", "how can you help me", "what do you know", "can you help me"),
        (
            "I can explain attestation, logs and receipts, do small sums, repeat words, tell short stories and call "
            "tools.",
        ),
    ),
    (
        ("thank you", "thanks", "thanks a lot", "many thanks", "great, thanks"),
        ("You are welcome!", "You are welcome. Is there anything else?"),
    ),
    (("bye", "goodbye", "see you", "good night"), ("Goodbye!", "Goodbye, and take care.")),
    (
        ("who made you", "who trained you", "where do you come from"),
        ("I was trained by the veriroute project on texts that it wrote itself.",),
    ),
    (
        ("are you a large model", "how big are you", "how many parameters do you have", "are you smart"),
        ("I am very small: I have less than one million parameters. I know little, but I am fast.",),
    ),
    (
        ("are you honest", "can I trust you", "should I trust you", "do you lie"),
        (
            "Do not trust me: check the signature of my answer. I can be wrong, and the signature only shows who said it.",
        ),
    ),
    (
        (
            "why should I verify an answer",
            "why does verification matter",
            "why do agents need verified inference",
            "why verify",
        ),
        (
            "An agent acts on what it reads. If somebody changed the answer on its way, the agent would do the wrong "
            "thing, so it should check the evidence first.",
        ),
    ),
    (
        ("how does verification work", "how do you verify an answer", "how is an answer verified"),
        (
            "The node signs a receipt with the digests of the request and the answer. The gateway checks the signature, "
            "the digests and the nonce, and then decides by the policy.",
        ),
    ),
    (
        ("how do I verify a receipt", "how can I check a receipt", "how to verify a receipt offline"),
        (
            "Save the bundle and run veriroute verify on it. It checks the signature, the inclusion proof and the "
            "checkpoint without a network.",
        ),
    ),
    (
        ("how do I use veriroute", "how do I connect my agent", "how do I start"),
        ("Point the base URL of your client at the gateway and use your gateway key. Nothing else changes.",),
    ),
    (
        ("what happens when a check fails", "what happens if the signature is wrong", "what if the node lies"),
        ("The answer is not released. The gateway returns an error with the reason and writes a receipt about it.",),
    ),
    (
        ("what is the difference between a log and a database", "how is a log different from a database"),
        ("A database can be changed by its owner. A transparency log can only grow, and others can check that.",),
    ),
    (
        ("what is the meaning of life", "what is the purpose of life"),
        ("Nobody knows for sure. To be kind, to learn and to check the evidence is a good start.",),
    ),
    (
        ("tell me a joke", "do you know a joke", "make me laugh", "say something funny"),
        (
            "Why did the hash cross the road? To get to the other digest.",
            "Why was the log so calm? It never had to change its mind.",
        ),
    ),
    (
        ("what day is it", "what time is it", "what is the date today"),
        ("I do not know the time. I have no clock and no network, only my weights.",),
    ),
    (
        ("is it safe", "is this safe", "is that true", "are you sure"),
        ("I am not sure. Check the evidence before you rely on my answer.",),
    ),
    (
        ("what colors are there", "name three colors", "list three colors", "give me three colors"),
        ("Red, green and blue.",),
    ),
    (("name three animals", "list three animals", "give me three animals"), ("A fox, an owl and a bear.",)),
    (("name three fruits", "list three fruits", "give me three fruits"), ("An apple, a pear and a plum.",)),
    (("what is the opposite of hot",), ("The opposite of hot is cold.",)),
    (("what is the opposite of big",), ("The opposite of big is small.",)),
    (("what color is the sky", "why is the sky blue"), ("The sky is blue because air scatters blue light the most.",)),
    (("what color is grass", "what color is the grass"), ("Grass is green.",)),
    (("how many days are in a week", "how many days does a week have"), ("A week has seven days.",)),
    (("how many months are in a year", "how many months does a year have"), ("A year has twelve months.",)),
    (("how many hours are in a day", "how many hours does a day have"), ("A day has twenty-four hours.",)),
    (
        ("write a haiku", "write a haiku about logs", "write a short poem", "write a poem"),
        (
            "Leaves fall into place,\neach one hashed under the root:\nnothing is undone.",
            "A key in the night,\nit signs the words as they come:\nmorning checks them all.",
        ),
    ),
    (("ping", "test", "this is a test", "testing", "are you there"), ("Yes, I am here.", "I am here and I work.")),
    (("what is the capital of France", "capital of France"), ("The capital of France is Paris.",)),
    (("what is the capital of Germany", "capital of Germany"), ("The capital of Germany is Berlin.",)),
    (("what is the capital of Italy", "capital of Italy"), ("The capital of Italy is Rome.",)),
    (("what is the capital of Spain", "capital of Spain"), ("The capital of Spain is Madrid.",)),
    (("what is the capital of Japan", "capital of Japan"), ("The capital of Japan is Tokyo.",)),
    (("what is the capital of England", "capital of England"), ("The capital of England is London.",)),
]

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer in one sentence.",
    "You are an agent that uses tools.",
    "Be brief.",
    "Answer briefly and say when you are not sure.",
    "You are a careful engineer.",
    "You help with attestation and audit logs.",
    "You are a test assistant.",
)

NAMES = tuple(
    "Ada Alan Ana Ben Carla Dan Dora Emil Eva Finn Grace Hana Ida Ivan Jan Kim Lea Leo Lin Mara Max Mia Nina Noor Olga "
    "Otto Paul Petra Rosa Sam Sara Tim Tom Uma Vera Wei Yara Zoe".split()
)
CITIES = (
    *"Paris Berlin Rome Madrid Tokyo London Oslo Vienna Prague Lisbon Dublin Athens Cairo Delhi Lima Quito Kyoto Osaka "
    "Zurich Geneva Milan Naples Porto Seville Boston Denver Austin Dallas Seattle Toronto Sydney Helsinki Warsaw".split(),
    *"New York|San Francisco|Los Angeles|Hong Kong|Cape Town|New York City|San Jose|Buenos Aires|Tel Aviv".split("|"),
)
ANIMALS = tuple("fox owl bear cat dog wolf hare mouse crow swan goat horse duck frog bee turtle".split())
PLACES = tuple(
    "a quiet forest|a small village|an old house|a green valley|a cold mountain|a busy town|a wide river|"
    "a dark cave|a sunny garden|a little island".split("|")
)
FINDS = tuple(
    "a silver key|a sealed letter|a strange map|a book of numbers|a broken clock|a golden coin|a small lamp|"
    "a box without a lock|a message in a bottle|a ring".split("|")
)
ADJECTIVES = tuple("small old clever shy brave quiet young curious kind lonely happy careful".split())
NOUNS = tuple(
    "apple bread butter bridge bottle camera candle carpet castle chair cheese city cloud coat coffee corn cotton cup "
    "desert desk door dragon dream drum engine farm field finger fire fish flag flower football forest garden ghost "
    "gold grass guitar hammer harbor hat honey horse hotel house ice island jacket jungle kitchen knife ladder lake "
    "lamp leaf lemon letter light lion machine magic map market math medicine metal milk mirror money monkey mountain "
    "museum nail needle night ocean oil onion orange oven paint paper park pasta pencil pepper piano picture pilot "
    "pizza planet plant plastic poem potato price printer prince queen radio rain recipe rice river road robot rocket "
    "roof room rope salad salt sand school science sea shadow ship shirt shoe silver snow soap soccer song soup spoon "
    "spring stone storm street sugar summer sword table tea teacher thunder ticket tiger tomato tower toy train truck "
    "umbrella valley village violin volcano wall weather wheel wind window winter wine wood wool world yellow zebra "
    "physics history biology chemistry economics politics football tennis chess cooking painting dancing philosophy "
    "quantum gravity blockchain bitcoin ethereum taxes insurance".split()
)
TOOLS = (
    (
        "get_weather",
        "city",
        (
            "What is the weather in {v}?",
            "How is the weather in {v} today?",
            "Use get_weather for {v}.",
            "Is it raining in {v}?",
            "Weather in {v} please.",
            "What's the weather like in {v} today?",
            "what is the weather in {v} in celsius?",
            "Please tell me the weather in {v}.",
            "I am going to {v}. How is the weather there?",
        ),
        "city",
    ),
    ("get_time", "city", ("What time is it in {v}?", "Use get_time for {v}.", "Tell me the time in {v}."), "city"),
    (
        "search",
        "query",
        ("Search for {v}.", "Please search for {v}.", "Use search to look for {v}.", "Look up {v}."),
        "noun",
    ),
    (
        "send_email",
        "to",
        (
            "Send an email to {v}.",
            "Please email {v}.",
            "Write to {v}.",
            "Send 20 dollars to {v}.",
            "Send {v} a message.",
        ),
        "name",
    ),
    (
        "read_file",
        "path",
        (
            "Read the file {v}.",
            "Open {v}.",
            "Show me {v}.",
            "read the file {v} please",
            "Please read {v} and tell me what is in it.",
            "What is in {v}?",
        ),
        "file",
    ),
    ("get_user", "name", ("Find the user {v}.", "Who is {v}?", "Look up the user {v}."), "name"),
    ("lookup", "key", ("Look up {v} in the table.", "Use lookup with {v}."), "any"),
    ("translate", "text", ("Translate {v}.", "Translate the word {v}."), "noun"),
    ("add", "number", ("Add {v} to the sum.", "Call add with {v}."), "number"),
    ("book_flight", "destination", ("Book a flight to {v}.", "I want to fly to {v}."), "city"),
)
