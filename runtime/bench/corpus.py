"""Sentences to speak: what a voice agent says, 40 to 200 characters each."""

from __future__ import annotations

TEN_WORDS = "The next train to the airport leaves in twelve minutes."

SENTENCES = (
    "Good morning, and thank you for calling. How can I help you today?",
    "Your table for four is booked for Friday evening at half past seven.",
    "I have found three flights that fit; the first one leaves early in the morning.",
    "Could you please tell me the last four digits of your account number?",
    "The package was delivered this morning and left with your neighbour across the street.",
    "It will be mostly sunny tomorrow, with a light wind and a high of twenty degrees.",
    "I am sorry to hear that. Let me look into it, and I will call you back this afternoon.",
    "The museum is open from ten until six, and the entrance is free for children.",
    "Turn left at the second traffic light, then keep right and follow the signs to the station.",
    "You have two new messages, and one of them is marked as urgent.",
    "Before we go on, I need to check that I am speaking with the owner of the account.",
    "The recipe needs two cups of flour, a pinch of salt and a little more patience.",
    "Your appointment with the doctor has been moved to Thursday afternoon.",
    "The water in the harbour was so clear that we could count the stones on the bottom.",
    "Please hold the line for a moment while I connect you to one of my colleagues.",
    "He opened the old door, and behind it was a narrow staircase that nobody had used for years.",
)
