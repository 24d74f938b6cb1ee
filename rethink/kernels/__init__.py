"""The hot operations as functions of tensors: a torch reference and native code for each."""
