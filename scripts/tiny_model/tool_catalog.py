"""The tools that samples offer, and the requests that call for them.

Main type: `Intent`. Invariant: every argument value stands word for word in the request. Names of
functions and parameters vary, so that a model has to copy them from the offered list. Knows nothing of
prompts or tokens.
"""

import dataclasses

ENUMS = {
    "unit": ["celsius", "fahrenheit"], "priority": ["low", "medium", "high", "urgent"],
    "cabin": ["economy", "business", "first"],
    "language": ["English", "French", "German", "Spanish", "Italian"],
    "currency": ["EUR", "USD", "GBP", "JPY", "CHF"],
}
INTEGER_KINDS = ("small", "minutes", "amount", "orderid", "percent")


@dataclasses.dataclass
class Param:
    names: list          # alternatives; one is drawn per sample
    kind: str            # what words.Pool draws, or a key of ENUMS, or one of INTEGER_KINDS
    description: str
    required: bool = True


@dataclasses.dataclass
class Intent:
    names: list          # alternatives; one is drawn per sample
    descriptions: list
    params: dict         # slot in the requests -> Param
    requests: list       # templates with {slot}; a template may leave out optional slots


def _p(names, kind, description, required=True):
    return Param(names.split("|"), kind, description, required)


CITY = _p("city|location|place|town", "place", "The name of the city")
UNIT = _p("unit|units|scale|format", "unit", "Temperature unit", required=False)
DATE = _p("date|day|when", "isodate", "The date, YYYY-MM-DD")

INTENTS = [
    Intent(["get_weather", "get_current_weather", "weather_lookup", "current_weather", "fetch_weather", "weather_report"],
           ["Get the weather in a city", "Current weather for a place", "Get the current weather", "Get the current weather for a city", "Returns the weather of a location"],
           {"city": CITY, "unit": UNIT},
           ["What is the weather in {city}?", "What's the weather like in {city}?", "How is the weather in {city}?", "Weather in {city}, please.", "What is the weather in {city} in {unit}?", "Tell me the weather in {city}, in {unit}.", "Is it raining in {city}?", "What's the weather like in {city} today?", "How warm is it in {city} in {unit}?", "What is the temperature in {city}?", "weather {city}"]),
    Intent(["get_forecast", "weather_forecast", "forecast", "daily_forecast"], ["Weather forecast for a city on a date", "Get the forecast for a day"],
           {"city": CITY, "date": DATE},
           ["What will the weather be in {city} on {date}?", "Forecast for {city} on {date}?", "Give me the forecast of {date} for {city}.", "Will it rain in {city} on {date}?"]),
    Intent(["send_email", "email_send", "write_email", "mail"], ["Send an email", "Send an e-mail to somebody"],
           {"to": _p("to|recipient|address", "email", "Email address"), "subject": _p("subject|title", "phrase", "Subject line")},
           ["Send an email to {to} with the subject {subject}.", "Write to {to}, subject: {subject}.", "Email {to} about {subject}.", "Please send a mail with the subject {subject} to {to}."]),
    Intent(["send_message", "message_contact", "send_sms", "text_contact"], ["Send a text message to a contact", "Send a message"],
           {"name": _p("name|contact|recipient|to", "person", "Name of the contact"), "text": _p("text|message|body", "phrase", "The message")},
           ["Text {name}: {text}", "Send {name} the message {text}.", "Send a message to {name}: {text}"]),
    Intent(["create_event", "add_calendar_event", "schedule_meeting", "new_event", "add_event"], ["Create a calendar event", "Add an event to the calendar"],
           {"title": _p("title|name|summary", "phrase", "Title of the event"), "date": DATE, "time": _p("time|start|start_time", "time", "Start time, HH:MM", required=False)},
           ["Create an event {title} on {date} at {time}.", "Add {title} to my calendar on {date}.", "Schedule {title} for {date} at {time}.", "Put {title} in the calendar on {date} at {time}."]),
    Intent(["search_flights", "find_flights", "flight_search", "flights"], ["Search flights between two cities", "Find a flight"],
           {"a": _p("origin|from|departure", "place", "City of departure"), "b": _p("destination|to|arrival", "place", "City of arrival"), "date": DATE, "cabin": _p("cabin|class", "cabin", "Cabin class", required=False)},
           ["Find a flight from {a} to {b} on {date}.", "I need to fly from {a} to {b} on {date} in {cabin} class.", "Search flights to {b} from {a} on {date}.", "Are there flights from {a} to {b} on {date}?"]),
    Intent(["convert_currency", "currency_converter", "exchange", "exchange_money"], ["Convert an amount of money", "Convert between currencies"],
           {"n": _p("amount|value|sum", "amount", "Amount of money"), "a": _p("from|source|from_currency", "currency", "Source currency"), "b": _p("to|target|to_currency", "currency", "Target currency")},
           ["Convert {n} {a} to {b}.", "How much is {n} {a} in {b}?", "What are {n} {a} worth in {b}?", "Change {n} {a} into {b}."]),
    Intent(["get_stock_price", "stock_quote", "share_price", "stock_price"], ["Price of a share", "Get the stock price of a company"],
           {"c": _p("company|symbol|ticker", "company", "The company")},
           ["What is the stock price of {c}?", "How much is a share of {c}?", "Quote for {c}, please."]),
    Intent(["translate_text", "translate", "translator"], ["Translate a text", "Translate text into another language"],
           {"text": _p("text|sentence|input", "phrase", "Text to translate"), "l": _p("language|target|target_language", "language", "Target language")},
           ["Translate {text} into {l}.", "How do you say {text} in {l}?", "Please put {text} into {l}."]),
    Intent(["set_timer", "start_timer", "timer", "countdown"], ["Set a timer", "Start a timer"],
           {"n": _p("minutes|duration|duration_minutes", "minutes", "Duration in minutes")},
           ["Set a timer for {n} minutes.", "Wake me in {n} minutes.", "Start a {n} minute timer.", "Timer: {n} minutes"]),
    Intent(["set_alarm", "alarm", "create_alarm"], ["Set an alarm", "Set the alarm clock"],
           {"time": _p("time|at|alarm_time", "time", "Time, HH:MM")}, ["Set an alarm for {time}.", "Wake me up at {time}.", "Alarm at {time}, please."]),
    Intent(["book_table", "reserve_table", "restaurant_booking", "table_reservation"], ["Book a table in a restaurant", "Reserve a table"],
           {"r": _p("restaurant|place|venue", "company", "Name of the restaurant"), "n": _p("people|guests|party_size", "small", "Number of people"), "time": _p("time|hour", "time", "Time, HH:MM", required=False)},
           ["Book a table at {r} for {n} people at {time}.", "Reserve a table for {n} at {r}.", "I would like a table at {r} at {time} for {n}.", "Table for {n} people at {r}, please."]),
    Intent(["get_order_status", "order_status", "track_order", "lookup_order", "find_order"], ["Status of an order", "Look up an order by its number"],
           {"o": _p("order_id|order|number|id", "orderid", "Order number")},
           ["Where is my order {o}?", "What is the status of order {o}?", "Track order {o}.", "Has order {o} been shipped?", "Please look up order number {o}."]),
    Intent(["track_parcel", "parcel_status", "track_shipment"], ["Track a parcel by its code", "Status of a shipment"],
           {"c": _p("code|tracking_code|tracking_number", "code", "Tracking code")}, ["Where is parcel {c}?", "Track the parcel {c}.", "My tracking code is {c}. Where is my parcel?"]),
    Intent(["play_music", "play_song", "start_music", "play_track"], ["Play music", "Play a song"],
           {"s": _p("title|song|track", "phrase", "Title of the song"), "a": _p("artist|singer|by", "person", "The artist", required=False)},
           ["Play {s} by {a}.", "I want to hear {s}.", "Put on {s} by {a}.", "Play the song {s}."]),
    Intent(["get_contact", "find_contact", "lookup_contact", "search_contact"], ["Find a contact's details", "Look up a contact"],
           {"n": _p("name|contact|person", "person", "Name of the contact")}, ["Look up the contact {n}.", "Find {n} in my contacts.", "What are the contact details of {n}?"]),
]

# Requests in the other languages, for the slots of the intent with that first name.
FOREIGN_REQUESTS = {
    "get_weather": {"fr": ["Quel temps fait-il à {city} ?", "Donne-moi la météo de {city}."], "de": ["Wie ist das Wetter in {city}?", "Wie wird das Wetter in {city}?"], "es": ["¿Qué tiempo hace en {city}?", "¿Cómo está el tiempo en {city}?"], "it": ["Che tempo fa a {city}?", "Com'è il tempo a {city}?"]},
    "set_timer": {"fr": ["Mets un minuteur de {n} minutes."], "de": ["Stelle einen Timer auf {n} Minuten."], "es": ["Pon un temporizador de {n} minutos."], "it": ["Imposta un timer di {n} minuti."]},
    "get_order_status": {"fr": ["Où est ma commande {o} ?", "Quel est l'état de la commande {o} ?"], "de": ["Wo ist meine Bestellung {o}?", "Wie ist der Stand der Bestellung {o}?"], "es": ["¿Dónde está mi pedido {o}?", "¿Cuál es el estado del pedido {o}?"], "it": ["Dov'è il mio ordine {o}?", "Qual è lo stato dell'ordine {o}?"]},
    "search_flights": {"fr": ["Trouve un vol de {a} à {b} le {date}."], "de": ["Suche einen Flug von {a} nach {b} am {date}."], "es": ["Busca un vuelo de {a} a {b} el {date}."], "it": ["Trova un volo da {a} a {b} il {date}."]},
    "get_contact": {"fr": ["Cherche le contact {n}."], "de": ["Suche den Kontakt {n}."], "es": ["Busca el contacto {n}."], "it": ["Cerca il contatto {n}."]},
    "convert_currency": {"fr": ["Convertis {n} {a} en {b}."], "de": ["Rechne {n} {a} in {b} um."], "es": ["Convierte {n} {a} a {b}."], "it": ["Converti {n} {a} in {b}."]},
}

# Composed tools: "<verb>_<noun>" with parameters in any combination.
VERBS = "cancel create delete update find print close approve share start".split()
NOUNS = "invoice report account file project task user device meeting document".split()
SLOTS = {
    "person": (_p("customer|owner|name|user|assignee", "person", "Name of the person"), ["for {v}", "of {v}"]),
    "code": (_p("code|id|reference|number", "code", "The identifier"), ["with the code {v}", "with the id {v}", "number {v}"]),
    "date": (DATE, ["on {v}", "for {v}", "dated {v}"]),
    "place": (_p("city|location|site", "place", "The place"), ["in {v}", "at {v}"]),
    "priority": (_p("priority|level", "priority", "The priority"), ["with {v} priority"]),
    "amount": (_p("amount|quantity|limit", "amount", "The amount"), ["with the amount {v}", "with amount {v}"]),
    "time": (_p("time|hour", "time", "The time, HH:MM"), ["at {v}"]),
}
LEADS = ["Please {verb} the {noun} {slots}.", "{Verb} the {noun} {slots}.", "Can you {verb} the {noun} {slots}?", "I want to {verb} the {noun} {slots}."]

RESULT_FIELDS = {
    "temperature": "small", "condition": "word", "status": "word", "reference": "code", "price": "amount", "total": "amount", "name": "person",
    "city": "place", "date": "isodate", "time": "time", "confirmation": "code", "count": "small", "result": "amount", "phone": "phone",
    "email": "email", "humidity": "percent", "room": "small", "title": "phrase", "department": "word", "duration": "small", "balance": "amount",
}
ERRORS = ["city not found", "access denied", "no such order", "the service is not available", "invalid date", "timeout", "unknown name", "no results", "permission missing", "server busy"]
