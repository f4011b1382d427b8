// Package accept decides what of an object that a user has edited is valid. What it accepts is copied into the object's
// status, and the system acts on that copy and on nothing else: an edit that is refused leaves everything as it was.
//
// It is functions over values: the shell around it says in a [World] what else exists.
package accept
