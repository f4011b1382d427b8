// Package legacy says what the VirtualMesh of each of the three older generations of this API is in isthmus.dev/v1alpha1:
//
//   - networking.zephyr.solo.io/v1alpha1
//   - networking.smh.solo.io/v1alpha2
//   - networking.mesh.gloo.solo.io/v1
//
// Manifests are read as those generations read them: by the rules of Protocol Buffers' JSON, so that a field may be written in
// camel or snake case, and an enum as its name or its number. Nothing of a manifest is lost silently. A field is either
// converted, or a finding names it or one that it lies in, says what became of it and what to do.
//
//   - What a generation had no field for is kept aside, in the annotation [AnnotationNotConverted], and reported.
//   - What it had a field for, but is no value that is possible here, leaves the whole object unconverted, as does an unknown
//     field where something is selected: half of a spec could share more than was meant.
//   - What that generation meant by leaving a field out is written down where it means something else here.
//
// It is functions over values and knows no cluster. Whether a mesh or a Secret exists is for the hub to say.
package legacy
