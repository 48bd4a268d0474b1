"""The method's stages: clues, proposals, wsod, pseudo_gt, retrain, wsis; each holds settings, pure functions and run()."""
