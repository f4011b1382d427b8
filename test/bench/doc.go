// Package bench measures Isthmus at scale: the real programs, on real API servers, as many Destinations as large fleets have.
// Its figures are in docs/operations/scale.md. What its tests assert are counts; times are only reported.
package bench
